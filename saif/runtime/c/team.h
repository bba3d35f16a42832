/* Threads that take a step together.

OpenMP's do this as well, but PyTorch's are OpenMP's too, and once some other thread of the process
has used those (a prompt that is read in the background is enough) they go to sleep at every meeting
point, of which a step has hundreds: it then takes two to three times as long. Where another process
wants a core they spin instead. These yield it. */

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

#define MOST_HELPERS 63
#define SPINS 256 /* about ten microseconds, then the core is offered to others */
#define PATIENCE 2048 /* about a millisecond, which is longer than between two steps */

/* Which thread of how many. */
typedef struct {
  int index, of;
} place;

typedef void work(const void *what, place p);

/* This thread's share of what is there `n` times: neighbours, as they mostly lie side by side. */
#define EACH(i, n, p) \
  for (int i = (int)((int64_t)(n) * (p).index / (p).of), \
           i##_end = (int)((int64_t)(n) * ((p).index + 1) / (p).of); \
       i < i##_end; i++)

static struct {
  pthread_mutex_t turn; /* whose work is being done */
  pthread_mutex_t bed; /* for helpers that have waited long enough */
  pthread_cond_t wake;
  atomic_uint call; /* which piece of work, and in its lowest byte by how many */
  atomic_uint meeting; /* how often all of them met */
  atomic_int arrived;
  work *work;
  const void *what;
  int n_helpers;
  unsigned born[MOST_HELPERS + 1]; /* the call before a helper's first */
} team = {
    .turn = PTHREAD_MUTEX_INITIALIZER,
    .bed = PTHREAD_MUTEX_INITIALIZER,
    .wake = PTHREAD_COND_INITIALIZER,
};

static inline void linger(int spins) {
  if (spins >= SPINS) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
  else __builtin_ia32_pause();
#elif defined(__aarch64__)
  else __asm__ volatile("yield");
#endif
}

/* Wait until every thread is here; what they wrote before can then be read by all. */
static void meet(place p) {
  if (p.of == 1) return;
  const unsigned before = atomic_load_explicit(&team.meeting, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&team.arrived, 1, memory_order_acq_rel) == p.of - 1) {
    atomic_store_explicit(&team.arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&team.meeting, before + 1, memory_order_release);
    return;
  }
  for (int i = 0; atomic_load_explicit(&team.meeting, memory_order_acquire) == before;
       i += i < SPINS)
    linger(i);
}

static unsigned next_call(unsigned last) {
  unsigned call;
  for (int i = 0; i < PATIENCE; i++) {
    call = atomic_load_explicit(&team.call, memory_order_acquire);
    if (call != last) return call;
    linger(i);
  }
  pthread_mutex_lock(&team.bed);
  while ((call = atomic_load_explicit(&team.call, memory_order_acquire)) == last)
    pthread_cond_wait(&team.wake, &team.bed);
  pthread_mutex_unlock(&team.bed);
  return call;
}

static void *help(void *index) {
  place p = {(int)(intptr_t)index, 0};
  for (unsigned call = team.born[p.index];;) {
    call = next_call(call);
    p.of = call & 255;
    /* Who has no part in it must not look at it: it may have ended already. */
    if (p.index >= p.of) continue;
    team.work(team.what, p);
    meet(p);
  }
  return NULL;
}

/* A fork has none of its parent's threads, whatever they were just doing. */
static void start_afresh(void) {
  team.n_helpers = 0;
  atomic_store(&team.arrived, 0);
  team.turn = team.bed = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
  team.wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

__attribute__((constructor)) static void on_loading(void) {
  pthread_atfork(NULL, NULL, start_afresh);
}

/* Have up to `n` helpers, as many as the system gives. */
static void hire(int n) {
  sigset_t all, before;
  sigfillset(&all);
  while (team.n_helpers < n && team.n_helpers < MOST_HELPERS) {
    const int index = team.n_helpers + 1;
    pthread_t thread;
    team.born[index] = atomic_load(&team.call);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for Python's own threads */
    const int failed = pthread_create(&thread, NULL, help, (void *)(intptr_t)index);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) break;
    pthread_detach(thread);
    team.n_helpers = index;
  }
}

/* Have `threads` threads, this one among them, do their share of `what`. */
static void together(work *work, const void *what, int threads) {
  pthread_mutex_lock(&team.turn);
  hire(threads - 1);
  place p = {0, threads <= team.n_helpers ? threads : team.n_helpers + 1};
  if (p.of < 1) p.of = 1;
  team.work = work;
  team.what = what;
  if (p.of > 1) {
    const unsigned call = (atomic_load(&team.call) & ~255u) + 256 + p.of;
    pthread_mutex_lock(&team.bed);
    atomic_store_explicit(&team.call, call, memory_order_release);
    pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.bed);
  }
  work(what, p);
  meet(p);
  pthread_mutex_unlock(&team.turn);
}
