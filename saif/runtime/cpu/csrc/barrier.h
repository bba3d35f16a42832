/* Threads that take a step together.

They are OpenMP's, which PyTorch's are too: with others of our own, those would spin on the cores
that these need. But they meet in a way of their own. Once some other thread of the process has used
OpenMP (a prompt that is read in the background is enough), there are more threads than cores, and
OpenMP's then go to sleep wherever they meet; a step has hundreds of such places and takes three
times as long. Where another process wants a core, those spin instead; these offer it. */

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define SPINS 256 /* about ten microseconds, then the core is offered to others */

/* Where threads meet: how many have come, and how often all of them have. */
typedef struct {
  atomic_int here;
  atomic_uint meetings;
} circle;

/* Which thread of how many. */
typedef struct {
  int index, of;
  circle *circle;
} place;

/* This thread's share of what is there `n` times: neighbours, as they mostly lie side by side. */
#define EACH(i, n, p) \
  for (int i = (int)((int64_t)(n) * (p).index / (p).of), \
           i##_end = (int)((int64_t)(n) * ((p).index + 1) / (p).of); \
       i < i##_end; i++)

/* Wait until every thread is here; what they wrote before can then be read by all. */
static void meet(place p) {
  if (p.of == 1) return;
  circle *c = p.circle;
  const unsigned before = atomic_load_explicit(&c->meetings, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&c->here, 1, memory_order_acq_rel) == p.of - 1) {
    atomic_store_explicit(&c->here, 0, memory_order_relaxed);
    atomic_store_explicit(&c->meetings, before + 1, memory_order_release);
    return;
  }
  for (int spins = 0; atomic_load_explicit(&c->meetings, memory_order_acquire) == before; spins++) {
    if (spins >= SPINS) sched_yield(), spins = SPINS;
#if defined(__x86_64__) || defined(__i386__)
    else __builtin_ia32_pause();
#elif defined(__aarch64__)
    else __asm__ volatile("yield");
#endif
  }
}

/* Have up to `threads` threads do their share of `what`. */
static void together(void (*work)(const void *what, place p), const void *what, int threads) {
  circle c = {0};
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  work(what, (place){omp_get_thread_num(), omp_get_num_threads(), &c});
#else
  (void)threads;
  work(what, (place){0, 1, &c});
#endif
}
