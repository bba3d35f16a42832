/* One decoding step of Llama-shaped blocks, for `saif.runtime.native`. */

#include "products.h"

typedef struct {
  product qkv, out, gate_up, down;
  const float *input_norm, *mlp_norm, *query_norm, *key_norm; /* the last two may be NULL */
  float epsilon, scaling;
} block;

/* What a step works on. resid (rows, d), cos and sin (rows, width); columns (rows, most_columns):
where a row's own positions lie in the cache, its newest last, and how many. The cache of a block is
(rows, n_kv, room, width). The last five are scratch. */
typedef struct {
  int32_t rows, threads, n_query, n_kv, width, d, most_columns;
  float *resid;
  const float *cos, *sin;
  const int32_t *columns, *n_columns;
  float *const *keys, *const *values;
  const int64_t *room;
  float *normed, *heads, *wide, *scores;
  reading *taken_in;
} step;

static inline lanes where(ints mask, lanes yes, lanes no) {
  return (lanes)((mask & (ints)yes) | (~mask & (ints)no));
}

/* exp, to the last bit or two; below -87 the least that is no denormal. */
static inline lanes exponential(lanes x) {
  const float round = 12582912.f; /* 1.5 · 2^23: adding it leaves no bits for a fraction */
  x = where(x < -87.f, all(-87.f), x);
  x = where(x > 87.f, all(87.f), x);
  lanes n = (x * 1.44269504f + round) - round;
  lanes r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  lanes p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  ints power = (__builtin_convertvector(n, ints) + 127) << 23;
  return p * (lanes)power;
}

static void rms_norm(const float *x, const float *weight, float epsilon, int n, float *y) {
  lanes squares = all(0.f);
  for (int i = 0; i < n; i += LANES) squares += at(x + i) * at(x + i);
  const float scale = 1.f / __builtin_sqrtf(sum(squares) / n + epsilon);
  for (int i = 0; i < n; i += LANES) put(y + i, at(x + i) * scale * at(weight + i));
}

static void rotate(float *x, const float *cos, const float *sin, int width) {
  for (int i = 0, j = width / 2; i < width / 2; i++, j++) {
    const float a = x[i], b = x[j];
    x[i] = a * cos[i] - b * sin[i];
    x[j] = b * cos[j] + a * sin[j];
  }
}

/* One row's queries of one key head, which overwrite themselves with what they find. */
static void attend(const step *s, const block *b, int layer, int row, int kv) {
  const int width = s->width, group = s->n_query / s->n_kv, n = s->n_columns[row];
  const int32_t *columns = s->columns + (size_t)row * s->most_columns;
  float *heads = s->heads + (size_t)row * (s->n_query + 2 * s->n_kv) * width;
  float *queries = heads + (size_t)kv * group * width;
  float *key = heads + (size_t)(s->n_query + kv) * width, *value = key + (size_t)s->n_kv * width;
  const float *cos = s->cos + (size_t)row * width, *sin = s->sin + (size_t)row * width;
  const size_t start = (size_t)(row * s->n_kv + kv) * s->room[layer] * width;
  float *keys = s->keys[layer] + start, *values = s->values[layer] + start;
  if (b->key_norm) rms_norm(key, b->key_norm, b->epsilon, width, key);
  rotate(key, cos, sin, width);
  for (int i = 0; i < width; i++) {
    keys[(size_t)columns[n - 1] * width + i] = key[i];
    values[(size_t)columns[n - 1] * width + i] = value[i];
  }
  for (int q = 0; q < group; q++) {
    float *query = queries + (size_t)q * width;
    if (b->query_norm) rms_norm(query, b->query_norm, b->epsilon, width, query);
    rotate(query, cos, sin, width);
    float *scores = s->scores + (size_t)(row * s->n_query + kv * group + q) * s->most_columns;
    float most = -__builtin_inff();
    for (int t = 0; t < n; t++) {
      lanes dot = all(0.f);
      for (int i = 0; i < width; i += LANES)
        dot += at(query + i) * at(keys + (size_t)columns[t] * width + i);
      scores[t] = sum(dot) * b->scaling;
      if (scores[t] > most) most = scores[t];
    }
    /* most_columns is a whole number of lanes. What is beyond the last column weighs e^-87,
    which beside the likeliest one's 1 is nothing to the last bit. */
    const int end = (n + LANES - 1) / LANES * LANES;
    for (int t = n; t < end; t++) scores[t] = -__builtin_inff();
    lanes weights = all(0.f);
    for (int t = 0; t < end; t += LANES) {
      lanes w = exponential(at(scores + t) - most);
      put(scores + t, w);
      weights += w;
    }
    const float whole = 1.f / sum(weights);
    for (int i = 0; i < width; i += LANES) {
      lanes found = all(0.f);
      for (int t = 0; t < n; t++) found += at(values + (size_t)columns[t] * width + i) * scores[t];
      put(query + i, found * whole);
    }
  }
}

static void run_block(const step *s, const block *b, int layer) {
  const int rows = s->rows, d = s->d, n_heads = s->n_query + 2 * s->n_kv;
  const int in = b->out.n_in, wide = b->down.n_in;
#pragma omp for schedule(static)
  for (int r = 0; r < rows; r++) {
    float *normed = s->normed + (size_t)r * d;
    rms_norm(s->resid + (size_t)r * d, b->input_norm, b->epsilon, d, normed);
    take_in(normed, d, s->taken_in + (size_t)r * d / GROUP);
  }
  multiply(&b->qkv, s->taken_in, s->heads, rows);
#pragma omp for schedule(static)
  for (int each = 0; each < rows * s->n_kv; each++)
    attend(s, b, layer, each / s->n_kv, each % s->n_kv);
#pragma omp for schedule(static)
  for (int r = 0; r < rows; r++) /* the queries' results come first */
    take_in(s->heads + (size_t)r * n_heads * s->width, in, s->taken_in + (size_t)r * in / GROUP);
  multiply(&b->out, s->taken_in, s->normed, rows);
#pragma omp for schedule(static)
  for (int r = 0; r < rows; r++) {
    float *resid = s->resid + (size_t)r * d, *normed = s->normed + (size_t)r * d;
    for (int i = 0; i < d; i++) resid[i] += normed[i];
    rms_norm(resid, b->mlp_norm, b->epsilon, d, normed);
    take_in(normed, d, s->taken_in + (size_t)r * d / GROUP);
  }
  multiply(&b->gate_up, s->taken_in, s->wide, rows);
#pragma omp for schedule(static)
  for (int r = 0; r < rows; r++) {
    float *gate = s->wide + (size_t)r * 2 * wide, *up = gate + wide;
    for (int i = 0; i < wide; i += LANES) {
      const lanes g = at(gate + i);
      put(gate + i, g / (exponential(-g) + 1.f) * at(up + i));
    }
    take_in(gate, wide, s->taken_in + (size_t)r * wide / GROUP);
  }
  multiply(&b->down, s->taken_in, s->normed, rows);
#pragma omp for schedule(static)
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < d; i++) s->resid[(size_t)r * d + i] += s->normed[(size_t)r * d + i];
}

/* Blocks `first` up to but not including `last`, in place of resid. */
void saif_run_blocks(const step *s, const block *blocks, int32_t first, int32_t last) {
#pragma omp parallel num_threads(s->threads)
  for (int layer = first; layer < last; layer++) run_block(s, blocks + layer, layer);
}

/* Bytes of scratch that a group of a row takes. */
int32_t saif_reading_bytes(void) { return sizeof(reading); }

void saif_multiply(
    const product *p, const float *x, reading *taken_in, float *y, int32_t rows, int32_t threads) {
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int r = 0; r < rows; r++)
      take_in(x + (size_t)r * p->n_in, p->n_in, taken_in + (size_t)r * p->n_in / GROUP);
    multiply(p, taken_in, y, rows);
  }
}
