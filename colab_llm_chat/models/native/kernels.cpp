// What a decoder's step computes for some rows on the CPU, in fp32: products by weights, attention over an arena, RMS
// norms and rotary positions.
//
// Plain C++17 and OpenMP, built on the machine that runs it, with its widest vectors. Knows no tensors: sizes are in
// numbers, not bytes, and whoever calls has checked them. What is not finite stays so.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "product.hpp"
#include "spans.hpp"
#include "threads.hpp"

namespace {

// A layer's weights and arenas; null where it has none. In the order of decoder.py.
struct Layer {
  const float *norm, *q, *q_bias, *k, *k_bias, *v, *v_bias, *q_norm, *k_norm, *o, *o_bias;
  const float *mlp_norm, *gate, *gate_bias, *up, *up_bias, *down, *down_bias;
  float *keys, *values;
  int64_t window;
};

struct Shape {
  int64_t tokens, hidden, heads, kv_heads, dim, inner;
};

// Numbers of which a thread takes so many at once.
constexpr int64_t PIECE = 1024;

// gate = silu(gate) * up
void gated(float* gate, const float* up, int64_t count) {
#pragma omp parallel for if (count > WORTH_THREADS)
  for (int64_t from = 0; from < count; from += PIECE) {
    const int64_t to = std::min(from + PIECE, count);
#pragma omp simd
    for (int64_t i = from; i < to; ++i) {
      const float x = gate[i], e = exponential(-std::fabs(x));
      gate[i] = x * (x < 0 ? e : 1.0f) / (1.0f + e) * up[i];
    }
  }
}

void add(float* to, const float* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// 1 where there is no memory, which no caller in C could be told by an exception; else 0.
template <typename Compute>
int checked(const Compute& compute) {
  try {
    compute();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace

extern "C" {

// Rows that `linear` takes at most.
int64_t most_rows() { return MOST; }

// y [rows, out] = x [rows, in] * w [out, in]^T + bias [out], which may be null; 1 <= rows <= most_rows().
int linear(float* y, const float* x, const float* w, const float* bias, int64_t rows, int64_t in, int64_t out) {
  return checked([&] { multiply({{y, x, w, bias, rows, in, out}}); });
}

// out [tokens, heads, value_dim] = softmax(scale * q . keys) . values for `count` spans of tokens: of each its first
// token, how many queries, and from where to where in the arenas [positions, kv_heads, dim] the first of them sees;
// each further query sees one position more. A `window` above 0 hides all but so many positions; `sinks` [heads], a
// score each that takes a share without a value, may be null.
int attend(float* out, const float* q, const float* keys, const float* values, const float* sinks, const int64_t* spans,
           int64_t count, int64_t heads, int64_t kv_heads, int64_t dim, int64_t value_dim, int64_t head_stride,
           int64_t token_stride, int64_t window, float scale) {
  const Attention a{out,   q,         keys,        values,       sinks,  heads, kv_heads, dim,
                    value_dim, head_stride, token_stride, window, scale};
  return checked([&] { attend_spans(a, spans, count); });
}

// out [rows, n] = weight [n] * x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019).
void rms_norm(float* out, const float* x, const float* weight, int64_t rows, int64_t n, float eps) {
#pragma omp parallel for if (rows * n > WORTH_THREADS)
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * n;
    float* to = out + r * n;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) squares += from[i] * from[i];
    const float scale = 1.0f / std::sqrt(squares / n + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) to[i] = weight[i] * (from[i] * scale);
  }
}

// out [tokens, heads, dim] = x turned by its position (Su et al. 2021, halves as in GPT-NeoX); cos, sin [tokens, dim].
void rotate(float* out, const float* x, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t dim,
            int64_t head_stride, int64_t token_stride) {
  const int64_t half = dim / 2;
#pragma omp parallel for if (tokens * heads * dim > WORTH_THREADS)
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h) {
      const float *from = x + h * head_stride + t * token_stride, *c = cos + t * dim, *s = sin + t * dim;
      float* to = out + (t * heads + h) * dim;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float low = from[i], high = from[i + half];
        to[i] = low * c[i] - high * s[i];
        to[i + half] = high * c[i + half] + low * s[i + half];
      }
    }
}

// hidden [tokens, hidden] through `count` layers. `where` [tokens] are the places in the arenas of the tokens' keys and
// values, `spans` as in `attend`, for all tokens.
int decode(float* hidden, const Layer* layers, int64_t count, const Shape* shape, const float* cos, const float* sin,
           const int64_t* where, const int64_t* spans, int64_t span_count, float eps, float scale) {
  return checked([&] {
    const int64_t tokens = shape->tokens, n = shape->hidden, heads = shape->heads, kv_heads = shape->kv_heads;
    const int64_t dim = shape->dim, inner = shape->inner;
    const int64_t asked = heads * dim, cached = kv_heads * dim;
    static thread_local std::vector<float> kept;
    const size_t needed = tokens * (2 * n + 2 * asked + 2 * cached + 2 * inner);
    if (kept.size() < needed) kept.resize(needed);
    float *x = kept.data(), *y = x + tokens * n, *q = y + tokens * n, *attended = q + tokens * asked;
    float *k = attended + tokens * asked, *v = k + tokens * cached;
    float *gate = v + tokens * cached, *up = gate + tokens * inner;
    for (const Layer* l = layers; l < layers + count; ++l) {
      rms_norm(x, hidden, l->norm, tokens, n, eps);
      multiply({{q, x, l->q, l->q_bias, tokens, n, asked},
                {k, x, l->k, l->k_bias, tokens, n, cached},
                {v, x, l->v, l->v_bias, tokens, n, cached}});
      if (l->q_norm) rms_norm(q, q, l->q_norm, tokens * heads, dim, eps);
      if (l->k_norm) rms_norm(k, k, l->k_norm, tokens * kv_heads, dim, eps);
      rotate(q, q, cos, sin, tokens, heads, dim, dim, asked);
      rotate(k, k, cos, sin, tokens, kv_heads, dim, dim, cached);
      for (int64_t t = 0; t < tokens; ++t) {
        std::memcpy(l->keys + where[t] * cached, k + t * cached, cached * sizeof(float));
        std::memcpy(l->values + where[t] * cached, v + t * cached, cached * sizeof(float));
      }
      attend_spans({attended, q, l->keys, l->values, nullptr, heads, kv_heads, dim, dim, dim, asked, l->window, scale},
                   spans, span_count);
      multiply({{y, attended, l->o, l->o_bias, tokens, asked, n}});
      add(hidden, y, tokens * n);
      rms_norm(x, hidden, l->mlp_norm, tokens, n, eps);
      multiply({{gate, x, l->gate, l->gate_bias, tokens, n, inner}, {up, x, l->up, l->up_bias, tokens, n, inner}});
      gated(gate, up, tokens * inner);
      multiply({{y, gate, l->down, l->down_bias, tokens, inner, n}});
      add(hidden, y, tokens * n);
    }
  });
}
}
