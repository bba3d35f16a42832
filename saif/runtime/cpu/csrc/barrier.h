/* The threads that run a step together, and the barrier at which they wait for each other.

They are OpenMP's, as PyTorch's are: threads of our own would compete with PyTorch's, which spin on
their cores. But the barrier is our own. Once another thread of the process has used OpenMP (a prompt
that is prefilled in the background is enough), OpenMP counts more threads than cores, and its threads
then sleep at each of its barriers; a step has hundreds and takes three times as long. Where another
process wants a core, OpenMP's threads would spin instead; these yield. */

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define SPINS 256 /* about ten microseconds, then the core is offered to others */

/* How many threads have arrived, and how often all of them had. */
typedef struct {
  atomic_int arrived;
  atomic_uint generation;
} barrier;

/* Thread `index` of `count`. */
typedef struct {
  int index, count;
  barrier *barrier;
} worker;

/* Loop over this worker's share of 0 … n - 1, which is contiguous, as neighbours mostly lie side by
side in memory. */
#define FOR_SHARE(i, n, w) \
  for (int i = (int)((int64_t)(n) * (w).index / (w).count), \
           i##_end = (int)((int64_t)(n) * ((w).index + 1) / (w).count); \
       i < i##_end; i++)

/* Wait until every worker is here; what they wrote before can then be read by all. */
static void barrier_wait(worker w) {
  if (w.count == 1) return;
  barrier *b = w.barrier;
  const unsigned before = atomic_load_explicit(&b->generation, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) == w.count - 1) {
    atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&b->generation, before + 1, memory_order_release);
    return;
  }
  for (int spins = 0; atomic_load_explicit(&b->generation, memory_order_acquire) == before; spins++) {
    if (spins >= SPINS) sched_yield(), spins = SPINS;
#if defined(__x86_64__) || defined(__i386__)
    else __builtin_ia32_pause();
#elif defined(__aarch64__)
    else __asm__ volatile("yield");
#endif
  }
}

/* Run `task` on up to `threads` threads. One is the caller itself: nothing is woken or waited for. */
static void parallel(void (*task)(const void *arguments, worker w), const void *arguments, int threads) {
  barrier b = {0};
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    task(arguments, (worker){omp_get_thread_num(), omp_get_num_threads(), &b});
    return;
  }
#endif
  (void)threads;
  task(arguments, (worker){0, 1, &b});
}
