/* One decoding step of Llama-shaped blocks, for `saif.runtime.cpu.c_step`. */

#include "gemm.h"

typedef struct {
  linear qkv, out, gate_up, down;
  const float *input_norm, *mlp_norm, *query_norm, *key_norm; /* the last two may be NULL */
  float epsilon, scaling;
} block;

/* embedding (tokens, d_model); rope_cos and rope_sin (positions, head_dim). */
typedef struct {
  int32_t n_blocks, n_query, n_kv, head_dim, d_model;
  float epsilon; /* of the norm after the last block */
  const block *blocks;
  const float *embedding, *norm, *rope_cos, *rope_sin;
} decoder;

/* What a step works on. columns (rows, max_columns): where a row's own positions lie in the cache, in
order, and n_columns (rows,): how many. The cache of a block is (rows, n_kv, capacity, head_dim).
directions (blocks, rows): what is added to a row's residual after a block, or NULL; changed (blocks,
rows): 1 where that changed it. The rest is scratch: resid and normed (rows, d_model), where normed
ends up as the input of the vocabulary projection. */
typedef struct {
  int32_t rows, threads, max_columns;
  const int32_t *tokens, *positions;
  int32_t *columns, *n_columns;
  float *const *keys, *const *values;
  const int64_t *capacity;
  const float *const *directions;
  int32_t *changed;
  float *resid, *normed, *heads, *gates, *scores;
  input_group *inputs;
} buffers;

static inline vec blend(ivec mask, vec yes, vec no) {
  return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* exp, to the last bit or two; below -87 the least that is no denormal. */
static inline vec exp_vec(vec x) {
  const float round = 12582912.f; /* 1.5 · 2^23: adding it leaves no bits for a fraction */
  x = blend(x < -87.f, broadcast(-87.f), x);
  x = blend(x > 87.f, broadcast(87.f), x);
  const vec n = fma_vec(x, broadcast(1.44269504f), broadcast(round)) - round;
  vec r = fma_vec(n, broadcast(-0.693359375f), x);
  r = fma_vec(n, broadcast(2.12194440e-4f), r);
  vec p = broadcast(1.9875691500e-4f);
  p = fma_vec(p, r, broadcast(1.3981999507e-3f));
  p = fma_vec(p, r, broadcast(8.3334519073e-3f));
  p = fma_vec(p, r, broadcast(4.1665795894e-2f));
  p = fma_vec(p, r, broadcast(1.6666665459e-1f));
  p = fma_vec(p, r, broadcast(5.0000001201e-1f));
  p = fma_vec(p * r, r, r) + 1.f;
  const ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
  return p * (vec)power;
}

static void rms_norm(const float *x, const float *weight, float epsilon, int n, float *y) {
  vec squares = broadcast(0.f);
  for (int i = 0; i < n; i += LANES) squares = fma_vec(load(x + i), load(x + i), squares);
  const float scale = 1.f / __builtin_sqrtf(horizontal_sum(squares) / n + epsilon);
  for (int i = 0; i < n; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
}

static void apply_rope(float *x, const float *cos, const float *sin, int head_dim) {
  for (int i = 0, j = head_dim / 2; i < head_dim / 2; i++, j++) {
    const float a = x[i], b = x[j];
    x[i] = a * cos[i] - b * sin[i];
    x[j] = b * cos[j] + a * sin[j];
  }
}

/* `n` scores become their weights but for a factor, which is returned. There is room for a whole
number of vectors. What is beyond the last score weighs e^-87, which beside the likeliest one's 1 is
nothing to the last bit. */
static float softmax(float *scores, int n) {
  const int end = (n + LANES - 1) / LANES * LANES;
  for (int t = n; t < end; t++) scores[t] = -__builtin_inff();
  vec largest = load(scores), weights = broadcast(0.f);
  for (int t = LANES; t < end; t += LANES)
    largest = blend(load(scores + t) > largest, load(scores + t), largest);
  float max = largest[0];
  for (int i = 1; i < LANES; i++)
    if (largest[i] > max) max = largest[i];
  for (int t = 0; t < end; t += LANES) {
    const vec w = exp_vec(load(scores + t) - max);
    store(scores + t, w);
    weights += w;
  }
  return 1.f / horizontal_sum(weights);
}

/* Attention of one row's queries of one key head, which are overwritten by their results. */
static void attend(const decoder *model, const buffers *s, int layer, int row, int kv) {
  const block *b = model->blocks + layer;
  const int head_dim = model->head_dim, n_kv = model->n_kv, group = model->n_query / n_kv;
  const int n = s->n_columns[row], position = s->positions[row];
  const int32_t *columns = s->columns + (size_t)row * s->max_columns;
  float *heads = s->heads + (size_t)row * (model->n_query + 2 * n_kv) * head_dim;
  float *queries = heads + (size_t)kv * group * head_dim;
  float *key = heads + (size_t)(model->n_query + kv) * head_dim;
  float *value = key + (size_t)n_kv * head_dim;
  const float *cos = model->rope_cos + (size_t)position * head_dim;
  const float *sin = model->rope_sin + (size_t)position * head_dim;
  const size_t start = (size_t)(row * n_kv + kv) * s->capacity[layer] * head_dim;
  float *keys = s->keys[layer] + start, *values = s->values[layer] + start;
  if (b->key_norm) rms_norm(key, b->key_norm, b->epsilon, head_dim, key);
  apply_rope(key, cos, sin, head_dim);
  for (int i = 0; i < head_dim; i++) {
    keys[(size_t)columns[n - 1] * head_dim + i] = key[i];
    values[(size_t)columns[n - 1] * head_dim + i] = value[i];
  }
  for (int q = 0; q < group; q++) {
    float *query = queries + (size_t)q * head_dim;
    if (b->query_norm) rms_norm(query, b->query_norm, b->epsilon, head_dim, query);
    apply_rope(query, cos, sin, head_dim);
  }
  /* Reading the cache is what takes the time: each of its lines is asked for once, and early. */
  float *scores = s->scores + (size_t)(row * model->n_query + kv * group) * s->max_columns;
  for (int t = 0; t < n; t++) {
    const float *past = keys + (size_t)columns[t] * head_dim;
    for (int i = 0; i < head_dim; i += 16)
      __builtin_prefetch(values + (size_t)columns[t] * head_dim + i, 0, 2);
    for (int q = 0; q < group; q++) {
      vec dot = broadcast(0.f);
      for (int i = 0; i < head_dim; i += LANES)
        dot = fma_vec(load(queries + q * head_dim + i), load(past + i), dot);
      scores[q * s->max_columns + t] = horizontal_sum(dot) * b->scaling;
    }
  }
  for (int q = 0; q < group; q++, scores += s->max_columns, queries += head_dim) {
    const float factor = softmax(scores, n);
    int i = 0;
    for (; i + 4 * LANES <= head_dim; i += 4 * LANES) {
      vec sums[4] = {};
      for (int t = 0; t < n; t++) {
        const float *past = values + (size_t)columns[t] * head_dim + i;
        const vec weight = broadcast(scores[t]);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) sums[v] = fma_vec(load(past + v * LANES), weight, sums[v]);
      }
      for (int v = 0; v < 4; v++) store(queries + i + v * LANES, sums[v] * factor);
    }
    for (; i < head_dim; i += LANES) {
      vec sum = broadcast(0.f);
      for (int t = 0; t < n; t++)
        sum = fma_vec(load(values + (size_t)columns[t] * head_dim + i), broadcast(scores[t]), sum);
      store(queries + i, sum * factor);
    }
  }
}

/* x += direction; 1 if that changed any number, else 0. */
static int32_t steer(float *x, const float *direction, int n) {
  int32_t changed = 0;
  for (int i = 0; i < n; i++) {
    const float before = x[i];
    x[i] = before + direction[i];
    changed |= x[i] != before;
  }
  return changed;
}

static void run_block(const decoder *model, const buffers *s, int layer, worker me) {
  const block *b = model->blocks + layer;
  const int rows = s->rows, d = model->d_model;
  const int n_heads = model->n_query + 2 * model->n_kv;
  const int attended = b->out.n_in, n_gates = b->down.n_in;
  FOR_SHARE(r, rows, me) {
    float *normed = s->normed + (size_t)r * d;
    rms_norm(s->resid + (size_t)r * d, b->input_norm, b->epsilon, d, normed);
    quantize_input(normed, d, s->inputs + (size_t)r * d / GROUP);
  }
  barrier_wait(me);
  gemm(&b->qkv, s->inputs, s->heads, rows, me);
  barrier_wait(me);
  FOR_SHARE(each, rows * model->n_kv, me)
    attend(model, s, layer, each / model->n_kv, each % model->n_kv);
  barrier_wait(me);
  FOR_SHARE(r, rows, me) /* the queries' results come first */
    quantize_input(s->heads + (size_t)r * n_heads * model->head_dim, attended,
        s->inputs + (size_t)r * attended / GROUP);
  barrier_wait(me);
  gemm(&b->out, s->inputs, s->normed, rows, me);
  barrier_wait(me);
  FOR_SHARE(r, rows, me) {
    float *resid = s->resid + (size_t)r * d, *normed = s->normed + (size_t)r * d;
    for (int i = 0; i < d; i++) resid[i] += normed[i];
    rms_norm(resid, b->mlp_norm, b->epsilon, d, normed);
    quantize_input(normed, d, s->inputs + (size_t)r * d / GROUP);
  }
  barrier_wait(me);
  gemm(&b->gate_up, s->inputs, s->gates, rows, me);
  barrier_wait(me);
  FOR_SHARE(r, rows, me) {
    float *gate = s->gates + (size_t)r * 2 * n_gates, *up = gate + n_gates;
    for (int i = 0; i < n_gates; i += LANES) { /* SiLU */
      const vec g = load(gate + i);
      store(gate + i, g / (exp_vec(-g) + 1.f) * load(up + i));
    }
    quantize_input(gate, n_gates, s->inputs + (size_t)r * n_gates / GROUP);
  }
  barrier_wait(me);
  gemm(&b->down, s->inputs, s->normed, rows, me);
  barrier_wait(me);
  FOR_SHARE(r, rows, me) {
    float *resid = s->resid + (size_t)r * d;
    for (int i = 0; i < d; i++) resid[i] += s->normed[(size_t)r * d + i];
    const size_t here = (size_t)layer * rows + r;
    if (s->directions[here]) s->changed[here] = steer(resid, s->directions[here], d);
  }
}

typedef struct {
  const decoder *model;
  const buffers *s;
  int new_column, first, last;
} block_range;

static void run_block_range(const void *arguments, worker me) {
  const block_range *range = arguments;
  const decoder *model = range->model;
  const buffers *s = range->s;
  const size_t d = model->d_model;
  if (range->first == 0)
    FOR_SHARE(r, s->rows, me) {
      s->columns[(size_t)r * s->max_columns + s->n_columns[r]++] = range->new_column;
      __builtin_memcpy(s->resid + r * d, model->embedding + s->tokens[r] * d, d * sizeof(float));
    }
  /* A row's share is the same worker's before and after each block, so no barrier is needed there. */
  for (int layer = range->first; layer < range->last; layer++) run_block(model, s, layer, me);
  if (range->last == model->n_blocks)
    FOR_SHARE(r, s->rows, me)
      rms_norm(s->resid + r * d, model->norm, model->epsilon, d, s->normed + r * d);
}

/* Run blocks `first` up to but not including `last`. Before the first of all, every row's token is
embedded, in cache column `new_column`; after the last of all comes the norm. */
void saif_run_blocks(
    const decoder *model, const buffers *s, int32_t new_column, int32_t first, int32_t last) {
  const block_range range = {model, s, new_column, first, last};
  parallel(run_block_range, &range, s->threads);
}

/* Outputs in a tile. */
int32_t saif_tile(void) { return TILE; }

/* Bytes of scratch that a group of a row's input takes. */
int32_t saif_input_group_bytes(void) { return sizeof(input_group); }

/* Which instructions this was compiled for. */
const char *saif_kernel(void) { return KERNEL; }

typedef struct {
  const linear *w;
  const float *x;
  input_group *inputs;
  float *y;
  int rows;
} linear_call;

static void run_linear(const void *arguments, worker me) {
  const linear_call *call = arguments;
  const int n_in = call->w->n_in;
  FOR_SHARE(r, call->rows, me)
    quantize_input(call->x + (size_t)r * n_in, n_in, call->inputs + (size_t)r * n_in / GROUP);
  barrier_wait(me);
  gemm(call->w, call->inputs, call->y, call->rows, me);
}

void saif_linear(const linear *w, const float *x, input_group *inputs, float *y, int32_t rows,
    int32_t threads) {
  const linear_call call = {w, x, inputs, y, rows};
  parallel(run_linear, &call, threads);
}
