/* Products with weights in 4 or 8 bits, in groups of 32 that share a scale.

A row is added up in the same order whoever rides along, so it gets the same bits in any company.
The vector types are GCC's and clang's own, so this compiles for any processor. */

#include <stddef.h>
#include <stdint.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define GROUP 32
#define HALF (GROUP / 2)
#define MOST_ROWS 4 /* that share one look at a weight */
#define MOST_OUTPUTS 2 /* that share one look at the rows */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define MANY_REGISTERS (LANES == 16) /* for two sums per output, which don't wait for each other */

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int8_t signed_bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

/* Of `n_out` × `n_in` weights. bits 4: weight j of a group is the low half of byte j, weight 16 + j
its high half, and a scale is a step and the value of step 0. bits 8: signed, and only a step. */
typedef struct {
  int32_t n_out, n_in, bits;
  const uint8_t *weight;
  const _Float16 *scale;
  const float *bias;
} product;

static inline lanes at(const float *x) { return *(const loose *)x; }
static inline void put(float *x, lanes v) { *(loose *)x = v; }
static inline lanes all(float x) { return (lanes){} + x; }

/* Written so that it stays in registers; a loop over the lanes takes a fifth of a product's time. */
static inline float sum(lanes v) {
  float x[LANES];
  put(x, v);
#if LANES > 8
  const eight half = *(const eight *)x + *(const eight *)(x + 8);
  *(eight *)x = half;
#endif
#if LANES > 4
  const four quarter = *(const four *)x + *(const four *)(x + 4);
#else
  const four quarter = *(const four *)x;
#endif
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

/* Bytes, a lane for each. GCC takes them apart one by one unless told how. */
static inline ints unsigned_lanes(const uint8_t *w) {
#if defined(__AVX512F__)
  return (ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)w));
#elif defined(__AVX2__)
  return (ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)w));
#else
  return __builtin_convertvector(*(const bytes *)w, ints);
#endif
}

static inline ints signed_lanes(const uint8_t *w) {
#if defined(__AVX512F__)
  return (ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)w));
#elif defined(__AVX2__)
  return (ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)w));
#else
  return __builtin_convertvector(*(const signed_bytes *)w, ints);
#endif
}

/* Scales as float32. Converted one by one they would take longer than the weights. */
static inline void widen(const _Float16 *scale, int n, float *wide) {
  int i = 0;
#ifdef __F16C__
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(wide + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scale + i))));
#endif
  for (; i < n; i++) wide[i] = scale[i];
}

/* Weights `from` and `HALF + from` onwards of a group. */
static inline __attribute__((always_inline)) void weights(
    const uint8_t *w, const float *scale, int from, const int bits, lanes *low, lanes *high) {
  const float step = scale[0];
  if (bits == 8) {
    *low = __builtin_convertvector(signed_lanes(w + from), lanes) * step;
    *high = __builtin_convertvector(signed_lanes(w + HALF + from), lanes) * step;
    return;
  }
  const ints both = unsigned_lanes(w + from);
#ifdef __AVX512F__
  /* All sixteen values a group can hold, looked up by the low four bits of each lane. */
  const lanes count = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const __m512 values = (__m512)(count * step + scale[1]);
  *low = (lanes)_mm512_permutexvar_ps((__m512i)both, values);
  *high = (lanes)_mm512_permutexvar_ps((__m512i)(both >> 4), values);
#else
  *low = __builtin_convertvector(both & 15, lanes) * step + scale[1];
  *high = __builtin_convertvector(both >> 4, lanes) * step + scale[1];
#endif
}

/* `outs` outputs from `o` on, for `rows` rows; the compiler knows the last three. */
static inline __attribute__((always_inline)) void some_outputs(const product *p, const float *x,
    float *y, int o, const int outs, const int rows, const int bits) {
  const int groups = p->n_in / GROUP, size = GROUP * bits / 8, scales = bits == 4 ? 2 : 1;
  const size_t stride = (size_t)groups * size;
  const uint8_t *w = p->weight + o * stride;
  float scale[outs * groups * scales];
  widen(p->scale + (size_t)o * groups * scales, outs * groups * scales, scale);
  lanes first[MOST_OUTPUTS][MOST_ROWS], second[MOST_OUTPUTS][MOST_ROWS];
  for (int i = 0; i < outs; i++)
    for (int r = 0; r < rows; r++) first[i][r] = second[i][r] = all(0.f);
  for (int g = 0; g < groups; g++, w += size, x += GROUP)
#pragma GCC unroll 4
    for (int from = 0; from < HALF; from += LANES) {
      lanes low[MOST_OUTPUTS], high[MOST_OUTPUTS];
#pragma GCC unroll 2
      for (int i = 0; i < outs; i++)
        weights(w + i * stride, scale + (i * groups + g) * scales, from, bits, low + i, high + i);
#pragma GCC unroll 4
      for (int r = 0; r < rows; r++) {
        const float *in = x + (size_t)r * p->n_in + from;
        const lanes a = at(in), b = at(in + HALF);
#pragma GCC unroll 2
        for (int i = 0; i < outs; i++) {
          first[i][r] += low[i] * a;
          if (MANY_REGISTERS) second[i][r] += high[i] * b;
          else first[i][r] += high[i] * b;
        }
      }
    }
  for (int i = 0; i < outs; i++)
    for (int r = 0; r < rows; r++)
      y[(size_t)r * p->n_out + o + i] =
          sum(first[i][r] + second[i][r]) + (p->bias ? p->bias[o + i] : 0.f);
}

static inline __attribute__((always_inline)) void outputs(
    const product *p, const float *x, float *y, int rows, int o, const int outs, const int bits) {
  for (; rows > 0; rows -= MOST_ROWS, x += MOST_ROWS * p->n_in, y += MOST_ROWS * p->n_out)
    switch (rows) {
      case 1: some_outputs(p, x, y, o, outs, 1, bits); break;
      case 2: some_outputs(p, x, y, o, outs, 2, bits); break;
      case 3: some_outputs(p, x, y, o, outs, 3, bits); break;
      default: some_outputs(p, x, y, o, outs, 4, bits);
    }
}

/* y (rows, n_out) = x (rows, n_in) @ weight.T + bias, by all threads of the team. */
static void multiply(const product *p, const float *x, float *y, int rows) {
#pragma omp for schedule(static)
  for (int o = 0; o < p->n_out; o += MOST_OUTPUTS) {
    const int outs = p->n_out - o < MOST_OUTPUTS ? 1 : MOST_OUTPUTS;
    if (p->bits == 4 && outs == 1) outputs(p, x, y, rows, o, 1, 4);
    else if (p->bits == 4) outputs(p, x, y, rows, o, MOST_OUTPUTS, 4);
    else if (outs == 1) outputs(p, x, y, rows, o, 1, 8);
    else outputs(p, x, y, rows, o, MOST_OUTPUTS, 8);
  }
}
