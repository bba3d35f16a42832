/* Products with weights in 4 or 8 bits, in groups of 32 that share a scale.

A row is added up in the same order whoever rides along, so it gets the same bits in any company.
The vector types are GCC's and clang's own, so this compiles for any processor; where one can add
up products of bytes, that is used. */

#include "barrier.h"

#include <stddef.h>
#include <stdint.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define GROUP 32
#define HALF (GROUP / 2)
#define MOST_ROWS 3 /* that share one look at a weight; with a fourth they leave the registers */
#define AHEAD 2048 /* bytes; what is read next is asked for so far in advance */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define VECTORS 2
#define TILE (VECTORS * LANES) /* outputs that lie side by side and share one look at an input */

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef int32_t loose_ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

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

/* Of `n_out` × `n_in` weights, in tiles of TILE outputs; what is beyond the last output is never read
from a result. A weight is q · step + lowest with 4 bits, and (q - 128) · step with 8.
weight (tiles, groups, 4 or 8, TILE, 4): four neighbours of an output lie in one 32-bit word. With 4
bits, the low half of byte j of a group is weight j, its high half weight 16 + j.
scale (tiles, groups, 2 or 1, TILE): step, and with 4 bits lowest. */
typedef struct {
  int32_t n_out, n_in, bits;
  const uint8_t *weight;
  const _Float16 *scale;
  const float *bias;
} product;

#ifdef __AVX512VNNI__
/* 32 numbers of a row as whole multiples of their scale: 24 bits, which is what a float32 has, in
three signed bytes. Sums of them are then exact. start: what a sum begins with if 128 is to be taken
from every q. */
#define DIGITS 3
#define MOST_WHOLE 8355000.f /* three bytes hold a little more */
typedef struct {
  float scale, sum;
  int32_t start[DIGITS];
  int8_t digit[DIGITS][GROUP];
} reading;
#else
typedef struct {
  float sum, x[GROUP];
} reading;
#endif

/* A row, ready for a product. What is to be added up may be anything, NaN included. */
static void take_in(const float *x, int n, reading *to) {
  for (const float *end = x + n; x < end; x += GROUP, to++) {
#ifdef __AVX512VNNI__
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + HALF);
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    const float total = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    /* A maximum may overlook NaN; a sum doesn't, nor infinity. */
    const float finite = total * 0.f, whole = most > 1e-30f ? MOST_WHOLE / most : 0.f;
    const __m512 in_units = _mm512_set1_ps(whole);
    __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(a, in_units));
    __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(b, in_units));
    to->scale = most / MOST_WHOLE + finite;
    to->sum = (float)_mm512_reduce_add_epi32(_mm512_add_epi32(low, high)) * to->scale;
    for (int d = 0; d < DIGITS; d++) {
      /* The lowest byte, with its sign; what is left is a multiple of 256. */
      const __m512i l = _mm512_srai_epi32(_mm512_slli_epi32(low, 24), 24);
      const __m512i h = _mm512_srai_epi32(_mm512_slli_epi32(high, 24), 24);
      _mm_storeu_si128((__m128i *)to->digit[d], _mm512_cvtepi32_epi8(l));
      _mm_storeu_si128((__m128i *)(to->digit[d] + HALF), _mm512_cvtepi32_epi8(h));
      to->start[d] = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(l, h));
      low = _mm512_srai_epi32(_mm512_sub_epi32(low, l), 8);
      high = _mm512_srai_epi32(_mm512_sub_epi32(high, h), 8);
    }
#else
    lanes total = all(0.f);
    for (int i = 0; i < GROUP; i += LANES) {
      put(to->x + i, at(x + i));
      total += at(x + i);
    }
    to->sum = sum(total);
#endif
  }
}

/* The scales of a tile, as float32. */
static inline lanes scales_at(const _Float16 *scale) {
#if defined(__AVX512F__)
  return (lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)scale));
#elif defined(__F16C__)
  return (lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)scale));
#else
  lanes wide;
  for (int i = 0; i < LANES; i++) wide[i] = scale[i];
  return wide;
#endif
}

/* A tile's outputs for `rows` rows that lie `apart` groups from each other; the compiler knows
`rows` and `bits`. */
static inline __attribute__((always_inline)) void some_outputs(const product *p, int tile,
    const reading *x, int apart, float *y, const int rows, const int bits) {
  const int groups = p->n_in / GROUP;
  const size_t size = TILE * GROUP * bits / 8, scales = bits == 4 ? 2 : 1;
  const uint8_t *w = p->weight + tile * groups * size;
  const _Float16 *scale = p->scale + tile * groups * scales * TILE;
  lanes found[MOST_ROWS][VECTORS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < VECTORS; v++) found[r][v] = all(0.f);
  for (int g = 0; g < groups; g++, x++, w += size, scale += scales * TILE) {
    for (size_t line = 0; line < size; line += 64) __builtin_prefetch(w + AHEAD + line);
    lanes step[VECTORS], lowest[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
      step[v] = scales_at(scale + v * LANES);
      if (bits == 4) lowest[v] = scales_at(scale + TILE + v * LANES);
    }
#ifdef __AVX512VNNI__
    __m512i sums[MOST_ROWS][DIGITS][VECTORS];
    for (int r = 0; r < rows; r++)
      for (int d = 0; d < DIGITS; d++)
        for (int v = 0; v < VECTORS; v++)
          sums[r][d][v] = _mm512_set1_epi32(bits == 4 ? 0 : x[(size_t)r * apart].start[d]);
#pragma GCC unroll 8
    for (int j = 0; j < GROUP / 4; j++) { /* four weights at a time */
      __m512i q[VECTORS];
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) {
        q[v] = _mm512_loadu_si512(w + (bits == 4 ? j % 4 : j) * 4 * TILE + v * 4 * LANES);
        if (bits == 4 && j > 3) q[v] = _mm512_srli_epi16(q[v], 4);
        if (bits == 4) q[v] = _mm512_and_si512(q[v], _mm512_set1_epi8(15));
      }
#pragma GCC unroll 3
      for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int d = 0; d < DIGITS; d++) {
          int32_t four;
          __builtin_memcpy(&four, x[(size_t)r * apart].digit[d] + 4 * j, 4);
          /* Kept in a register: reading it anew for every product takes longer than those do. */
          __m512i digits = _mm512_set1_epi32(four);
          __asm__("" : "+v"(digits));
#pragma GCC unroll 2
          for (int v = 0; v < VECTORS; v++)
            sums[r][d][v] = _mm512_dpbusd_epi32(sums[r][d][v], q[v], digits);
        }
    }
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++) {
      const reading *in = x + (size_t)r * apart;
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) {
        const lanes low = (lanes)_mm512_cvtepi32_ps(sums[r][0][v]);
        const lanes middle = (lanes)_mm512_cvtepi32_ps(sums[r][1][v]);
        const lanes high = (lanes)_mm512_cvtepi32_ps(sums[r][2][v]);
        const lanes whole = high * 65536.f + (middle * 256.f + low);
        found[r][v] += whole * step[v] * in->scale;
        if (bits == 4) found[r][v] += lowest[v] * in->sum;
      }
    }
#else
    lanes sums[MOST_ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++) sums[r][v] = all(0.f);
    for (int j = 0; j < GROUP / 4; j++)
      for (int v = 0; v < VECTORS; v++) {
        const int line = bits == 4 ? j % 4 : j;
        const ints four = *(const loose_ints *)(w + line * 4 * TILE + v * 4 * LANES);
        const ints words = bits == 4 && j > 3 ? four >> 4 : four;
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
          const ints byte = words >> 8 * k, q = bits == 4 ? byte & 15 : (byte & 255) - 128;
          const lanes weight = __builtin_convertvector(q, lanes);
#pragma GCC unroll 3
          for (int r = 0; r < rows; r++)
            sums[r][v] += weight * x[(size_t)r * apart].x[4 * j + k];
        }
      }
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++) {
        found[r][v] += sums[r][v] * step[v];
        if (bits == 4) found[r][v] += lowest[v] * x[(size_t)r * apart].sum;
      }
#endif
  }
  const int o = tile * TILE, left = p->n_out - o < TILE ? p->n_out - o : TILE;
  for (int r = 0; r < rows; r++) {
    float whole[TILE];
    for (int v = 0; v < VECTORS; v++) put(whole + v * LANES, found[r][v]);
    for (int i = 0; i < left; i++)
      y[(size_t)r * p->n_out + o + i] = whole[i] + (p->bias ? p->bias[o + i] : 0.f);
  }
}

static inline __attribute__((always_inline)) void outputs(
    const product *p, int tile, const reading *x, float *y, int rows, const int bits) {
  const int groups = p->n_in / GROUP;
  for (; rows > 0; rows -= MOST_ROWS, x += MOST_ROWS * groups, y += (size_t)MOST_ROWS * p->n_out)
    switch (rows) {
      case 1: some_outputs(p, tile, x, groups, y, 1, bits); break;
      case 2: some_outputs(p, tile, x, groups, y, 2, bits); break;
      default: some_outputs(p, tile, x, groups, y, 3, bits);
    }
}

/* y (rows, n_out) = x (rows, n_in) @ weight.T + bias: this thread's share of the outputs. */
static void multiply(const product *p, const reading *x, float *y, int rows, place at) {
  EACH(tile, (p->n_out + TILE - 1) / TILE, at)
    if (p->bits == 4) outputs(p, tile, x, y, rows, 4);
    else outputs(p, tile, x, y, rows, 8);
}
