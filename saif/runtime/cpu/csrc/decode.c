/* One decoding step of Llama-shaped blocks, for `saif.runtime.cpu.c_step`. */

#include "gemm.h"

typedef struct {
  product qkv, out, gate_up, down;
  const float *input_norm, *mlp_norm, *query_norm, *key_norm; /* the last two may be NULL */
  float epsilon, scaling;
} block;

/* embedding (tokens, d); cos and sin (positions, width). */
typedef struct {
  int32_t n_blocks, n_query, n_kv, width, d;
  float epsilon; /* of the norm after the last block */
  const block *blocks;
  const float *embedding, *norm, *cos, *sin;
} decoder;

/* What a step works on. columns (rows, most_columns): where a row's own positions lie in the cache,
in order, and how many. The cache of a block is (rows, n_kv, room, width). added (blocks, rows):
what is added to a row's residual after a block, or NULL; changed (blocks, rows): 1 where that
changed it. The rest is scratch: resid and normed (rows, d), where normed ends up as what the
vocabulary projection takes in. */
typedef struct {
  int32_t rows, threads, most_columns;
  const int32_t *tokens, *positions;
  int32_t *columns, *n_columns;
  float *const *keys, *const *values;
  const int64_t *room;
  const float *const *added;
  int32_t *changed;
  float *resid, *normed, *heads, *wide, *scores;
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

/* What each of `n` scores weighs, in its place, but for a factor, which is returned. There is room
for a whole number of lanes. What is beyond the last weighs e^-87, which beside the likeliest one's 1
is nothing to the last bit. */
static float softmax(float *scores, int n) {
  const int end = (n + LANES - 1) / LANES * LANES;
  for (int t = n; t < end; t++) scores[t] = -__builtin_inff();
  lanes most = at(scores), weights = all(0.f);
  for (int t = LANES; t < end; t += LANES) most = where(at(scores + t) > most, at(scores + t), most);
  float likeliest = most[0];
  for (int i = 1; i < LANES; i++)
    if (most[i] > likeliest) likeliest = most[i];
  for (int t = 0; t < end; t += LANES) {
    const lanes w = exponential(at(scores + t) - likeliest);
    put(scores + t, w);
    weights += w;
  }
  return 1.f / sum(weights);
}

/* One row's queries of one key head, which overwrite themselves with what they find. */
static void attend(const decoder *of, const step *s, int layer, int row, int kv) {
  const block *b = of->blocks + layer;
  const int width = of->width, n_kv = of->n_kv, group = of->n_query / n_kv;
  const int n = s->n_columns[row], position = s->positions[row];
  const int32_t *columns = s->columns + (size_t)row * s->most_columns;
  float *heads = s->heads + (size_t)row * (of->n_query + 2 * n_kv) * width;
  float *queries = heads + (size_t)kv * group * width;
  float *key = heads + (size_t)(of->n_query + kv) * width, *value = key + (size_t)n_kv * width;
  const float *cos = of->cos + (size_t)position * width, *sin = of->sin + (size_t)position * width;
  const size_t start = (size_t)(row * n_kv + kv) * s->room[layer] * width;
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
  }
  /* Reading the cache is what takes the time: each of its lines is asked for once, and early. */
  float *scores = s->scores + (size_t)(row * of->n_query + kv * group) * s->most_columns;
  for (int t = 0; t < n; t++) {
    const float *past = keys + (size_t)columns[t] * width;
    for (int i = 0; i < width; i += 16)
      __builtin_prefetch(values + (size_t)columns[t] * width + i, 0, 2);
    for (int q = 0; q < group; q++) {
      lanes dot = all(0.f);
      for (int i = 0; i < width; i += LANES) dot += at(queries + q * width + i) * at(past + i);
      scores[q * s->most_columns + t] = sum(dot) * b->scaling;
    }
  }
  for (int q = 0; q < group; q++, scores += s->most_columns, queries += width) {
    const float whole = softmax(scores, n);
    int i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES) {
      lanes found[4] = {};
      for (int t = 0; t < n; t++) {
        const float *past = values + (size_t)columns[t] * width + i;
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) found[v] += at(past + v * LANES) * scores[t];
      }
      for (int v = 0; v < 4; v++) put(queries + i + v * LANES, found[v] * whole);
    }
    for (; i < width; i += LANES) {
      lanes found = all(0.f);
      for (int t = 0; t < n; t++) found += at(values + (size_t)columns[t] * width + i) * scores[t];
      put(queries + i, found * whole);
    }
  }
}

/* `x` + `more` in place of `x`; whether that is another. */
static int32_t add(float *x, const float *more, int n) {
  int32_t changed = 0;
  for (int i = 0; i < n; i++) {
    const float before = x[i];
    x[i] = before + more[i];
    changed |= x[i] != before;
  }
  return changed;
}

static void run_block(const decoder *of, const step *s, int layer, place p) {
  const block *b = of->blocks + layer;
  const int rows = s->rows, d = of->d, n_heads = of->n_query + 2 * of->n_kv;
  const int in = b->out.n_in, wide = b->down.n_in;
  EACH(r, rows, p) {
    float *normed = s->normed + (size_t)r * d;
    rms_norm(s->resid + (size_t)r * d, b->input_norm, b->epsilon, d, normed);
    take_in(normed, d, s->taken_in + (size_t)r * d / GROUP);
  }
  meet(p);
  multiply(&b->qkv, s->taken_in, s->heads, rows, p);
  meet(p);
  EACH(each, rows * of->n_kv, p) attend(of, s, layer, each / of->n_kv, each % of->n_kv);
  meet(p);
  EACH(r, rows, p) /* the queries' results come first */
    take_in(
        s->heads + (size_t)r * n_heads * of->width, in, s->taken_in + (size_t)r * in / GROUP);
  meet(p);
  multiply(&b->out, s->taken_in, s->normed, rows, p);
  meet(p);
  EACH(r, rows, p) {
    float *resid = s->resid + (size_t)r * d, *normed = s->normed + (size_t)r * d;
    for (int i = 0; i < d; i++) resid[i] += normed[i];
    rms_norm(resid, b->mlp_norm, b->epsilon, d, normed);
    take_in(normed, d, s->taken_in + (size_t)r * d / GROUP);
  }
  meet(p);
  multiply(&b->gate_up, s->taken_in, s->wide, rows, p);
  meet(p);
  EACH(r, rows, p) {
    float *gate = s->wide + (size_t)r * 2 * wide, *up = gate + wide;
    for (int i = 0; i < wide; i += LANES) {
      const lanes g = at(gate + i);
      put(gate + i, g / (exponential(-g) + 1.f) * at(up + i));
    }
    take_in(gate, wide, s->taken_in + (size_t)r * wide / GROUP);
  }
  meet(p);
  multiply(&b->down, s->taken_in, s->normed, rows, p);
  meet(p);
  EACH(r, rows, p) {
    float *resid = s->resid + (size_t)r * d;
    for (int i = 0; i < d; i++) resid[i] += s->normed[(size_t)r * d + i];
    const size_t here = (size_t)layer * rows + r;
    if (s->added[here]) s->changed[here] = add(resid, s->added[here], d);
  }
}

typedef struct {
  const decoder *of;
  const step *s;
  int newest, first, last;
} stretch;

static void run_stretch(const void *what, place p) {
  const stretch *w = what;
  const decoder *of = w->of;
  const step *s = w->s;
  const size_t d = of->d;
  if (w->first == 0) EACH(r, s->rows, p) {
      s->columns[(size_t)r * s->most_columns + s->n_columns[r]++] = w->newest;
      __builtin_memcpy(s->resid + r * d, of->embedding + s->tokens[r] * d, d * sizeof(float));
    }
  /* A row's share is the same thread's before and after each block, so none waits there. */
  for (int layer = w->first; layer < w->last; layer++) run_block(of, s, layer, p);
  if (w->last == of->n_blocks)
    EACH(r, s->rows, p) rms_norm(s->resid + r * d, of->norm, of->epsilon, d, s->normed + r * d);
}

/* Blocks `first` up to but not including `last`. Before the first of all, every row takes in its
token, which is the newest column's; after the last of all comes the norm. */
void saif_run_blocks(const decoder *of, const step *s, int32_t newest, int32_t first, int32_t last) {
  const stretch what = {of, s, newest, first, last};
  together(run_stretch, &what, s->threads);
}

/* Outputs in a tile. */
int32_t saif_tile(void) { return TILE; }

/* Bytes of scratch that a group of a row takes. */
int32_t saif_reading_bytes(void) { return sizeof(reading); }

typedef struct {
  const product *p;
  const float *x;
  reading *taken_in;
  float *y;
  int rows;
} layer;

static void run_layer(const void *what, place at) {
  const layer *w = what;
  const int n_in = w->p->n_in;
  EACH(r, w->rows, at)
    take_in(w->x + (size_t)r * n_in, n_in, w->taken_in + (size_t)r * n_in / GROUP);
  meet(at);
  multiply(w->p, w->taken_in, w->y, w->rows, at);
}

void saif_multiply(
    const product *p, const float *x, reading *taken_in, float *y, int32_t rows, int32_t threads) {
  const layer what = {p, x, taken_in, y, rows};
  together(run_layer, &what, threads);
}
