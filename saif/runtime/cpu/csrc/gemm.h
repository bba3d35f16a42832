/* Matrix products with weights in 4 or 8 bits, in groups of 32 that share a scale.

A row's bits must not depend on the rows beside it, on the number of threads, or on how a compiler
unrolls a loop. So each row is summed in one fixed order, and a product and a sum are fused only where
`fma_vec` says so: the sources are compiled with -ffp-contract=off (see build.py), because a compiler
that may contract does so in one copy of a loop and not in another.

The vector types are GCC's and clang's own, so this compiles for any processor; where one can multiply
bytes (AVX-512 VNNI), that is used. */

#include "barrier.h"

#include <stddef.h>
#include <stdint.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define GROUP 32
#define HALF_GROUP (GROUP / 2)
#define MAX_ROWS 3 /* that share one load of a weight; with a fourth they spill out of the registers */
#define PREFETCH 2048 /* bytes ahead of the weights that are being read */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define VECTORS 2
#define TILE (VECTORS * LANES) /* outputs that lie side by side and share one load of an input */

/* Which of the kernels below this is, for people. */
#if defined(__AVX512VNNI__)
#define KERNEL "AVX-512 VNNI"
#elif defined(__AVX512F__)
#define KERNEL "AVX-512"
#elif defined(__AVX2__) && defined(__FMA__)
#define KERNEL "AVX2 and FMA"
#elif defined(__AVX2__)
#define KERNEL "AVX2"
#elif defined(__FMA__)
#define KERNEL "FMA"
#elif defined(__aarch64__)
#define KERNEL "NEON"
#else
#define KERNEL "vectors of four"
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float vec8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef int32_t unaligned_ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t half; /* a float16's bits: not every compiler knows the type */

static inline vec load(const float *x) { return *(const unaligned_vec *)x; }
static inline void store(float *x, vec v) { *(unaligned_vec *)x = v; }
static inline vec broadcast(float x) { return (vec){} + x; }

/* a · b + c, rounded once where the processor can do that, in every kernel and loop alike. */
static inline vec fma_vec(vec a, vec b, vec c) {
#if defined(__AVX512F__)
  return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && LANES == 8
  return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
  return (vec)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif defined(__aarch64__)
  return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

/* Written so that it stays in registers; a loop over the lanes takes a fifth of a product's time. */
static inline float horizontal_sum(vec v) {
  float x[LANES];
  store(x, v);
#if LANES > 8
  const vec8 halves = *(const vec8 *)x + *(const vec8 *)(x + 8);
  *(vec8 *)x = halves;
#endif
#if LANES > 4
  const vec4 quarters = *(const vec4 *)x + *(const vec4 *)(x + 4);
#else
  const vec4 quarters = *(const vec4 *)x;
#endif
  return (quarters[0] + quarters[2]) + (quarters[1] + quarters[3]);
}

/* Float16 numbers as float32. */
static inline vec load_halves(const half *x) {
#if defined(__AVX512F__)
  return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
#elif defined(__F16C__) && LANES == 8
  return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
#else
  ivec bits;
  for (int i = 0; i < LANES; i++) bits[i] = x[i];
  const vec magnitude = (vec)((bits & 0x7fff) << 13) * 0x1p112f; /* the exponents' biases differ */
  return (vec)((ivec)magnitude | (bits & 0x8000) << 16);
#endif
}

/* Of a layer's `n_out` × `n_in` weights, in tiles of TILE outputs; the last tile is filled up with
outputs that nobody reads. A weight is q · step + lowest with 4 bits, and (q - 128) · step with 8.
weight (tiles, groups, 4 or 8, TILE, 4): four neighbours of an output lie in one 32-bit word. With 4
bits, the low half of byte j of a group is weight j, its high half weight 16 + j.
scale (tiles, groups, 2 or 1, TILE): step, and with 4 bits lowest. */
typedef struct {
  int32_t n_out, n_in, bits;
  const uint8_t *weight;
  const half *scale;
  const float *bias;
} linear;

#ifdef __AVX512VNNI__
/* 32 numbers of a row as integer multiples of their scale: 24 bits, which is what a float32 has, in
three signed bytes, lowest first. Sums of them are then exact. offset: -128 times each byte's sum,
where a sum begins if 128 is to be taken from every q. */
#define DIGITS 3
#define MAX_INTEGER 8355000.f /* three bytes hold a little more */
typedef struct {
  float scale, sum;
  int32_t offset[DIGITS];
  int8_t digit[DIGITS][GROUP];
} input_group;
#else
/* 32 numbers of a row as they are, and their sum. */
typedef struct {
  float sum, x[GROUP];
} input_group;
#endif

/* A row of `n` numbers, which may be anything, NaN included, as a product's input. */
static void quantize_input(const float *x, int n, input_group *to) {
  for (const float *end = x + n; x < end; x += GROUP, to++) {
#ifdef __AVX512VNNI__
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + HALF_GROUP);
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    const float total = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    /* A maximum may overlook NaN; a sum doesn't, nor infinity. */
    const float zero_or_nan = total * 0.f, per_unit = largest > 1e-30f ? MAX_INTEGER / largest : 0.f;
    const __m512 in_units = _mm512_set1_ps(per_unit);
    __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(a, in_units));
    __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(b, in_units));
    to->scale = largest / MAX_INTEGER + zero_or_nan;
    to->sum = (float)_mm512_reduce_add_epi32(_mm512_add_epi32(low, high)) * to->scale;
    for (int d = 0; d < DIGITS; d++) {
      /* The lowest byte, with its sign; what is left is a multiple of 256. */
      const __m512i l = _mm512_srai_epi32(_mm512_slli_epi32(low, 24), 24);
      const __m512i h = _mm512_srai_epi32(_mm512_slli_epi32(high, 24), 24);
      _mm_storeu_si128((__m128i *)to->digit[d], _mm512_cvtepi32_epi8(l));
      _mm_storeu_si128((__m128i *)(to->digit[d] + HALF_GROUP), _mm512_cvtepi32_epi8(h));
      to->offset[d] = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(l, h));
      low = _mm512_srai_epi32(_mm512_sub_epi32(low, l), 8);
      high = _mm512_srai_epi32(_mm512_sub_epi32(high, h), 8);
    }
#else
    vec total = broadcast(0.f);
    for (int i = 0; i < GROUP; i += LANES) {
      store(to->x + i, load(x + i));
      total += load(x + i);
    }
    to->sum = horizontal_sum(total);
#endif
  }
}

/* A tile's outputs for `rows` rows whose groups lie `row_stride` apart; the compiler knows `rows` and
`bits`. */
static inline __attribute__((always_inline)) void gemm_tile(const linear *w, int tile,
    const input_group *x, int row_stride, float *y, const int rows, const int bits) {
  const int groups = w->n_in / GROUP;
  const size_t size = TILE * GROUP * bits / 8, scales = bits == 4 ? 2 : 1;
  const uint8_t *weight = w->weight + tile * groups * size;
  const half *scale = w->scale + tile * groups * scales * TILE;
  vec out[MAX_ROWS][VECTORS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < VECTORS; v++) out[r][v] = broadcast(0.f);
  for (int g = 0; g < groups; g++, x++, weight += size, scale += scales * TILE) {
    for (size_t line = 0; line < size; line += 64) __builtin_prefetch(weight + PREFETCH + line);
    vec step[VECTORS], lowest[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
      step[v] = load_halves(scale + v * LANES);
      if (bits == 4) lowest[v] = load_halves(scale + TILE + v * LANES);
    }
#ifdef __AVX512VNNI__
    __m512i sums[MAX_ROWS][DIGITS][VECTORS];
    for (int r = 0; r < rows; r++)
      for (int d = 0; d < DIGITS; d++)
        for (int v = 0; v < VECTORS; v++)
          sums[r][d][v] = _mm512_set1_epi32(bits == 4 ? 0 : x[(size_t)r * row_stride].offset[d]);
#pragma GCC unroll 8
    for (int j = 0; j < GROUP / 4; j++) { /* four weights at a time */
      __m512i q[VECTORS];
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) {
        q[v] = _mm512_loadu_si512(weight + (bits == 4 ? j % 4 : j) * 4 * TILE + v * 4 * LANES);
        if (bits == 4 && j > 3) q[v] = _mm512_srli_epi32(q[v], 4);
        if (bits == 4) q[v] = _mm512_and_si512(q[v], _mm512_set1_epi32(0x0f0f0f0f));
      }
#pragma GCC unroll 3
      for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int d = 0; d < DIGITS; d++) {
          int32_t word;
          __builtin_memcpy(&word, x[(size_t)r * row_stride].digit[d] + 4 * j, 4);
          /* Kept in a register: reading it anew for every product takes longer than those do. */
          __m512i digits = _mm512_set1_epi32(word);
          __asm__("" : "+v"(digits));
#pragma GCC unroll 2
          for (int v = 0; v < VECTORS; v++)
            sums[r][d][v] = _mm512_dpbusd_epi32(sums[r][d][v], q[v], digits);
        }
    }
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++) {
      const input_group *in = x + (size_t)r * row_stride;
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) {
        const vec low = (vec)_mm512_cvtepi32_ps(sums[r][0][v]);
        const vec middle = (vec)_mm512_cvtepi32_ps(sums[r][1][v]);
        const vec high = (vec)_mm512_cvtepi32_ps(sums[r][2][v]);
        const vec units = fma_vec(high, broadcast(65536.f), fma_vec(middle, broadcast(256.f), low));
        out[r][v] = fma_vec(units * step[v], broadcast(in->scale), out[r][v]);
        if (bits == 4) out[r][v] = fma_vec(lowest[v], broadcast(in->sum), out[r][v]);
      }
    }
#else
    vec sums[MAX_ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++) sums[r][v] = broadcast(0.f);
    for (int j = 0; j < GROUP / 4; j++)
      for (int v = 0; v < VECTORS; v++) {
        const int line = bits == 4 ? j % 4 : j;
        const ivec word = *(const unaligned_ivec *)(weight + line * 4 * TILE + v * 4 * LANES);
        const ivec bytes = bits == 4 && j > 3 ? word >> 4 : word;
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
          const ivec byte = bytes >> 8 * k, q = bits == 4 ? byte & 15 : (byte & 255) - 128;
          const vec weights = __builtin_convertvector(q, vec);
#pragma GCC unroll 3
          for (int r = 0; r < rows; r++)
            sums[r][v] =
                fma_vec(weights, broadcast(x[(size_t)r * row_stride].x[4 * j + k]), sums[r][v]);
        }
      }
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++) {
        out[r][v] = fma_vec(sums[r][v], step[v], out[r][v]);
        if (bits == 4)
          out[r][v] = fma_vec(lowest[v], broadcast(x[(size_t)r * row_stride].sum), out[r][v]);
      }
#endif
  }
  const int first = tile * TILE, left = w->n_out - first < TILE ? w->n_out - first : TILE;
  for (int r = 0; r < rows; r++) {
    float outputs[TILE];
    for (int v = 0; v < VECTORS; v++) store(outputs + v * LANES, out[r][v]);
    for (int i = 0; i < left; i++)
      y[(size_t)r * w->n_out + first + i] = outputs[i] + (w->bias ? w->bias[first + i] : 0.f);
  }
}

static inline __attribute__((always_inline)) void gemm_rows(
    const linear *w, int tile, const input_group *x, float *y, int rows, const int bits) {
  const int groups = w->n_in / GROUP;
  for (; rows > 0; rows -= MAX_ROWS, x += MAX_ROWS * groups, y += (size_t)MAX_ROWS * w->n_out)
    switch (rows) {
      case 1: gemm_tile(w, tile, x, groups, y, 1, bits); break;
      case 2: gemm_tile(w, tile, x, groups, y, 2, bits); break;
      default: gemm_tile(w, tile, x, groups, y, 3, bits);
    }
}

/* y (rows, n_out) = x (rows, n_in) @ weight.T + bias: this worker's share of the outputs. */
static void gemm(const linear *w, const input_group *x, float *y, int rows, worker me) {
  FOR_SHARE(tile, (w->n_out + TILE - 1) / TILE, me)
    if (w->bits == 4) gemm_rows(w, tile, x, y, rows, 4);
    else gemm_rows(w, tile, x, y, rows, 8);
}
