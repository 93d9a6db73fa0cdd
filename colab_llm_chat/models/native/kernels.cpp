// What a decoder's step computes for a few rows on the CPU, in fp32: products by weights, attention of single queries,
// RMS norms and rotary positions.
//
// Plain C++17 and OpenMP, built on the machine that runs it, with its widest vectors. Knows no tensors: sizes are in
// numbers, not bytes, and whoever calls has checked them. What is not finite stays so.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else
inline int omp_get_num_threads() { return 1; }
inline int omp_get_thread_num() { return 0; }
inline int omp_get_max_threads() { return 1; }
#endif

namespace {

// Lanes of a vector, and the tiles whose sums stay in registers: 32 of them with AVX-512, 16 narrower ones elsewhere.
#ifdef __AVX512F__
constexpr int LANES = 16, FEW_OUTPUTS = 4, FEW_ROWS = 4;
constexpr int OUTPUTS[] = {12, 8, 6, 6};
#else
constexpr int LANES = 8, FEW_OUTPUTS = 2, FEW_ROWS = 4;
constexpr int OUTPUTS[] = {8, 4, 3, 2};
#endif
// Up to so many rows each output is a sum along the inputs; from there on rows lie side by side in the vectors.
constexpr int64_t FEW = 8;
constexpr int64_t MOST = 4 * LANES;
// Positions whose scores are turned into shares at once.
constexpr int64_t BLOCK = 32;
// Positions ahead of the one that is read, whose keys or values are asked of the memory.
constexpr int64_t AHEAD = 8;
constexpr int64_t CACHE_LINE = 64;
// Less work than this is done before a second thread has begun.
constexpr int64_t WORTH_THREADS = 1 << 15;

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// Pairwise: shorter chains of additions, and the same order wherever it is called.
inline float total(const Vector& v) {
  float lane[LANES];
  std::memcpy(lane, &v, sizeof lane);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

// The share of a thread of `count` things, in whole `step`s.
struct Share {
  int64_t from, to;
  Share(int64_t count, int64_t step) {
    const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num(), steps = count / step;
    from = steps * me / threads * step;
    to = me + 1 == threads ? count : steps * (me + 1) / threads * step;
  }
};

// ---- y [rows, out] = x [rows, in] * w [out, in]^T + bias [out]

struct Product {
  float* y;
  const float *x, *w, *bias;
  int64_t rows, in, out;

  float plus(int64_t o) const { return bias ? bias[o] : 0.0f; }
};

// O outputs of R rows: each weight is read once for all of them. `ahead`: ask the memory for the next tile's.
template <int O, int R>
inline void few_tile(const Product& p, int64_t o, int64_t r, bool ahead) {
  const float *x = p.x + r * p.in, *w = p.w + o * p.in;
  Vector sums[O][R] = {};
  int64_t i = 0;
  for (; i + LANES <= p.in; i += LANES) {
    Vector xs[R];
    for (int b = 0; b < R; ++b) xs[b] = load(x + b * p.in + i);
    for (int a = 0; a < O; ++a) {
      if (ahead) __builtin_prefetch(w + (O + a) * p.in + i, 0, 2);
      const Vector weights = load(w + a * p.in + i);
      for (int b = 0; b < R; ++b) sums[a][b] += xs[b] * weights;
    }
  }
  for (int a = 0; a < O; ++a)
    for (int b = 0; b < R; ++b) {
      float sum = total(sums[a][b]);
      for (int64_t j = i; j < p.in; ++j) sum += x[b * p.in + j] * w[a * p.in + j];
      p.y[(r + b) * p.out + o + a] = sum + p.plus(o + a);
    }
}

template <int O>
inline void few_outputs(const Product& p, int64_t o) {
  int64_t r = 0;
  for (; r + FEW_ROWS <= p.rows; r += FEW_ROWS) few_tile<O, FEW_ROWS>(p, o, r, r == 0);
  switch (p.rows - r) {
    case 3: return few_tile<O, 3>(p, o, r, r == 0);
    case 2: return few_tile<O, 2>(p, o, r, r == 0);
    case 1: return few_tile<O, 1>(p, o, r, r == 0);
  }
}

void few_rows(const Product& p) {
#pragma omp parallel
  {
    const Share share(p.out, FEW_OUTPUTS);
    int64_t o = share.from;
    for (; o + FEW_OUTPUTS <= share.to; o += FEW_OUTPUTS) few_outputs<FEW_OUTPUTS>(p, o);
    for (; o < share.to; ++o) few_outputs<1>(p, o);
  }
}

// O outputs of N vectors of rows; turned [in, N * LANES] are x's rows side by side.
template <int O, int N>
inline void many_tile(const Product& p, const float* turned, int64_t o) {
  const float* w = p.w + o * p.in;
  Vector sums[O][N] = {};
  for (int64_t i = 0; i < p.in; i += LANES) {
    for (int a = 0; a < O; ++a) __builtin_prefetch(w + (O + a) * p.in + i, 0, 2);
    const int64_t end = std::min(i + LANES, p.in);
    for (int64_t j = i; j < end; ++j) {
      Vector xs[N];
      for (int n = 0; n < N; ++n) xs[n] = load(turned + (j * N + n) * LANES);
      for (int a = 0; a < O; ++a)
        for (int n = 0; n < N; ++n) sums[a][n] += xs[n] * w[a * p.in + j];
    }
  }
  float lane[O][N * LANES];
  std::memcpy(lane, sums, sizeof lane);
  for (int64_t r = 0; r < p.rows; ++r)
    for (int a = 0; a < O; ++a) p.y[r * p.out + o + a] = lane[a][r] + p.plus(o + a);
}

template <int N>
void many_rows(const Product& p) {
  constexpr int O = OUTPUTS[N - 1];
  // Kept: there is one such call a layer.
  static thread_local std::vector<float> kept;
  if (kept.size() < static_cast<size_t>(p.in * N * LANES)) kept.resize(p.in * N * LANES);
  float* turned = kept.data();
#pragma omp parallel
  {
    const Share inputs(p.in, 1);
    for (int64_t i = inputs.from; i < inputs.to; ++i)
      for (int64_t r = 0; r < N * LANES; ++r) turned[i * N * LANES + r] = r < p.rows ? p.x[r * p.in + i] : 0.0f;
#pragma omp barrier
    const Share share(p.out, O);
    int64_t o = share.from;
    for (; o + O <= share.to; o += O) many_tile<O, N>(p, turned, o);
    for (; o < share.to; ++o) many_tile<1, N>(p, turned, o);
  }
}

// ---- attention

// e^x for x <= 0, after Cephes' expf: within 2 units in the last place, and a NaN stays one.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float n = std::nearbyint(x * 1.44269504088896341f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // NaN has no place among integers.
  const int32_t power = n >= -126.0f ? static_cast<int32_t>(n) : -126;
  const int32_t bits = (power + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

struct Attention {
  float* out;
  const float *q, *keys, *values, *sinks;
  int64_t heads, kv_heads, dim, value_dim, head_stride, token_stride, window;
  float scale;
};

// `queries` neighbours among a step's tokens; the first one sees positions [start, end) of the arena, each further one
// one more. Only `kv_from` to `kv_to` of the heads that have keys.
struct Part {
  int64_t token, queries, start, end, kv_from, kv_to;
};

// What a thread needs for a part; kept from one to the next.
struct Scratch {
  std::vector<float> scores, most, sum, queries;
};

inline void ask_for(const float* from, int64_t count) {
  const char *at = reinterpret_cast<const char*>(from), *end = reinterpret_cast<const char*>(from + count);
  for (; at < end; at += CACHE_LINE) __builtin_prefetch(at, 0, 2);
}

// One query of a part and positions [from, to), after those before: shares are corrected once a larger score shows
// (Milakov and Gimelshein 2018, online softmax). DIM: the size of a head where it is known beforehand, else 0.
template <int DIM>
void add_block(const Attention& a, const Part& part, Scratch& s, int64_t query, int64_t from, int64_t to, bool ahead) {
  const int64_t dim = DIM ? DIM : a.dim, value_dim = DIM ? DIM : a.value_dim;
  const int64_t group = a.heads / a.kv_heads, kv = part.kv_to - part.kv_from, heads = kv * group, count = to - from;
  const float* q = s.queries.data() + query * heads * dim;
  float *scores = s.scores.data(), *most = s.most.data() + query * heads, *sum = s.sum.data() + query * heads;
  float* out = a.out + ((part.token + query) * a.heads + part.kv_from * group) * value_dim;
  for (int64_t p = 0; p < count; ++p) {
    const float* k = a.keys + ((from + p) * a.kv_heads + part.kv_from) * dim;
    if (ahead) ask_for(k + AHEAD * a.kv_heads * dim, kv * dim);
    for (int64_t h = 0; h < heads; ++h) {
      const float *mine = q + h * dim, *its = k + h / group * dim;
      float score = 0;
#pragma omp simd reduction(+ : score)
      for (int64_t d = 0; d < dim; ++d) score += mine[d] * its[d];
      scores[h * BLOCK + p] = score;
    }
  }
  for (int64_t h = 0; h < heads; ++h) {
    float *mine = scores + h * BLOCK, *o = out + h * value_dim, top = most[h], added = 0;
    for (int64_t p = 0; p < count; ++p) top = mine[p] > top ? mine[p] : top;
    const float keep = exponential(most[h] - top);
    most[h] = top;
#pragma omp simd reduction(+ : added)
    for (int64_t p = 0; p < count; ++p) {
      mine[p] = exponential(mine[p] - top);
      added += mine[p];
    }
    sum[h] = sum[h] * keep + added;
    if (keep != 1.0f)
      for (int64_t d = 0; d < value_dim; ++d) o[d] *= keep;
  }
  const int64_t next = a.kv_heads * value_dim;
  for (int64_t p = 0; p < count; p += 4) {
    const float* v = a.values + ((from + p) * a.kv_heads + part.kv_from) * value_dim;
    const int64_t together = std::min<int64_t>(4, count - p);
    for (int64_t j = 0; ahead && j < together; ++j) ask_for(v + (AHEAD + j) * next, kv * value_dim);
    for (int64_t h = 0; h < heads; ++h) {
      const float *w = scores + h * BLOCK + p, *its = v + h / group * value_dim;
      float* o = out + h * value_dim;
      if (together == 4) {
        const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma omp simd
        for (int64_t d = 0; d < value_dim; ++d)
          o[d] += w0 * its[d] + w1 * its[next + d] + w2 * its[2 * next + d] + w3 * its[3 * next + d];
      } else {
        for (int64_t j = 0; j < together; ++j)
          for (int64_t d = 0; d < value_dim; ++d) o[d] += w[j] * its[j * next + d];
      }
    }
  }
}

template <int DIM>
void attend_part(const Attention& a, const Part& part, Scratch& s) {
  const int64_t group = a.heads / a.kv_heads, heads = (part.kv_to - part.kv_from) * group;
  const int64_t first_head = part.kv_from * group, lines = part.queries * heads;
  s.scores.resize(heads * BLOCK);
  s.most.resize(lines);
  s.sum.resize(lines);
  s.queries.resize(lines * a.dim);
  for (int64_t j = 0; j < part.queries; ++j)
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t line = j * heads + h;
      const float* from = a.q + (first_head + h) * a.head_stride + (part.token + j) * a.token_stride;
      for (int64_t d = 0; d < a.dim; ++d) s.queries[line * a.dim + d] = from[d] * a.scale;
      // A sink takes a share and gives no value.
      s.most[line] = a.sinks ? a.sinks[first_head + h] : -std::numeric_limits<float>::max();
      s.sum[line] = a.sinks ? 1.0f : 0.0f;
      float* o = a.out + ((part.token + j) * a.heads + first_head + h) * a.value_dim;
      std::fill(o, o + a.value_dim, 0.0f);
    }
  const int64_t last = part.end + part.queries - 1;
  const int64_t first = a.window ? std::max(part.start, part.end - a.window) : part.start;
  // A row's queries go through a block one after the other: it is read from memory once.
  for (int64_t block = first; block < last; block += BLOCK)
    for (int64_t j = 0; j < part.queries; ++j) {
      const int64_t end = part.end + j, sees = a.window ? std::max(part.start, end - a.window) : part.start;
      const int64_t from = std::max(block, sees), to = std::min(block + BLOCK, end);
      if (from < to) add_block<DIM>(a, part, s, j, from, to, j == 0);
    }
  for (int64_t line = 0; line < lines; ++line) {
    float* o = a.out + ((part.token + line / heads) * a.heads + first_head + line % heads) * a.value_dim;
    // Of scores that are all -inf none has a share.
    const bool none = s.most[line] == -std::numeric_limits<float>::max();
    const float all = none ? std::numeric_limits<float>::quiet_NaN() : s.sum[line];
    for (int64_t d = 0; d < a.value_dim; ++d) o[d] /= all;
  }
}

// Parts of about the same work, a few for each thread: positions are read in whole where there are rows enough.
std::vector<Part> parts_of(const Attention& a, const int64_t* spans, int64_t count) {
  const auto work = [&](const int64_t* span) {
    const int64_t length = span[3] - span[2];
    return span[1] * (a.window ? std::min(length, a.window) : length);
  };
  int64_t all = 0;
  for (int64_t i = 0; i < count; ++i) all += work(spans + 4 * i);
  const int64_t wanted = omp_get_max_threads() == 1 ? 1 : 4 * omp_get_max_threads();
  std::vector<Part> parts;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t* span = spans + 4 * i;
    const int64_t pieces = std::clamp<int64_t>((work(span) * wanted + all / 2) / std::max<int64_t>(all, 1), 1, a.kv_heads);
    for (int64_t j = 0; j < pieces; ++j)
      parts.push_back({span[0], span[1], span[2], span[3], a.kv_heads * j / pieces, a.kv_heads * (j + 1) / pieces});
  }
  // The longest first: begun last, one thread would go through it alone.
  std::stable_sort(parts.begin(), parts.end(), [](const Part& one, const Part& other) {
    const auto size = [](const Part& p) { return (p.end - p.start) * p.queries * (p.kv_to - p.kv_from); };
    return size(one) > size(other);
  });
  return parts;
}

void multiply(const Product& p) {
  if (p.rows <= FEW) return few_rows(p);
  switch ((p.rows + LANES - 1) / LANES) {
    case 1: return many_rows<1>(p);
    case 2: return many_rows<2>(p);
    case 3: return many_rows<3>(p);
    case 4: return many_rows<4>(p);
  }
}

void attend_spans(const Attention& a, const int64_t* spans, int64_t count) {
  const std::vector<Part> parts = parts_of(a, spans, count);
  const int64_t known = a.dim == a.value_dim ? a.dim : 0, all = static_cast<int64_t>(parts.size());
  const auto one = known == 64 ? attend_part<64> : known == 128 ? attend_part<128> : attend_part<0>;
#pragma omp parallel if (all > 1)
  {
    Scratch scratch;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < all; ++i) one(a, parts[i], scratch);
  }
}

// ---- the layers of a decoder that is built as Llama is

// A layer's weights and arenas; null where it has none. In the order of stack.py.
struct Layer {
  const float *norm, *q, *q_bias, *k, *k_bias, *v, *v_bias, *q_norm, *k_norm, *o, *o_bias;
  const float *mlp_norm, *gate, *gate_bias, *up, *up_bias, *down, *down_bias;
  float *keys, *values;
  int64_t window;
};

struct Shape {
  int64_t tokens, hidden, heads, kv_heads, dim, inner;
};

// gate = silu(gate) * up
void gated(float* gate, const float* up, int64_t count) {
#pragma omp parallel for simd if (count > WORTH_THREADS)
  for (int64_t i = 0; i < count; ++i) {
    const float x = gate[i], e = exponential(-std::fabs(x));
    gate[i] = x * (x < 0 ? e : 1.0f) / (1.0f + e) * up[i];
  }
}

void add(float* to, const float* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

}  // namespace

extern "C" {

// Rows that `linear` takes at most.
int64_t most_rows() { return MOST; }

// y [rows, out] = x [rows, in] * w [out, in]^T + bias [out], which may be null; 1 <= rows <= most_rows().
void linear(float* y, const float* x, const float* w, const float* bias, int64_t rows, int64_t in, int64_t out) {
  multiply({y, x, w, bias, rows, in, out});
}

// out [tokens, heads, value_dim] = softmax(scale * q . keys) . values for `count` spans of tokens: of each its first
// token, how many queries, and from where to where in the arenas [positions, kv_heads, dim] the first of them sees;
// each further query sees one position more. A `window` above 0 hides all but so many positions; `sinks` [heads], a
// score each that takes a share without a value, may be null.
void attend(float* out, const float* q, const float* keys, const float* values, const float* sinks, const int64_t* spans,
            int64_t count, int64_t heads, int64_t kv_heads, int64_t dim, int64_t value_dim, int64_t head_stride,
            int64_t token_stride, int64_t window, float scale) {
  attend_spans(
      {out, q, keys, values, sinks, heads, kv_heads, dim, value_dim, head_stride, token_stride, window, scale}, spans,
      count);
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
void decode(float* hidden, const Layer* layers, int64_t count, const Shape* shape, const float* cos, const float* sin,
            const int64_t* where, const int64_t* spans, int64_t span_count, float eps, float scale) {
  const auto [tokens, n, heads, kv_heads, dim, inner] = *shape;
  const int64_t asked = heads * dim, cached = kv_heads * dim;
  static thread_local std::vector<float> kept;
  const size_t needed = tokens * (2 * n + 2 * asked + 2 * cached + 2 * inner);
  if (kept.size() < needed) kept.resize(needed);
  float *x = kept.data(), *y = x + tokens * n, *q = y + tokens * n, *attended = q + tokens * asked;
  float *k = attended + tokens * asked, *v = k + tokens * cached, *gate = v + tokens * cached, *up = gate + tokens * inner;
  for (const Layer* l = layers; l < layers + count; ++l) {
    rms_norm(x, hidden, l->norm, tokens, n, eps);
    multiply({q, x, l->q, l->q_bias, tokens, n, asked});
    multiply({k, x, l->k, l->k_bias, tokens, n, cached});
    multiply({v, x, l->v, l->v_bias, tokens, n, cached});
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
    multiply({y, attended, l->o, l->o_bias, tokens, asked, n});
    add(hidden, y, tokens * n);
    rms_norm(x, hidden, l->mlp_norm, tokens, n, eps);
    multiply({gate, x, l->gate, l->gate_bias, tokens, n, inner});
    multiply({up, x, l->up, l->up_bias, tokens, n, inner});
    gated(gate, up, tokens * inner);
    multiply({y, gate, l->down, l->down_bias, tokens, inner, n});
    add(hidden, y, tokens * n);
  }
}
}
