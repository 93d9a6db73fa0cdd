// Products of some rows by weights as they lie in a model.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "threads.hpp"
#include "vectors.hpp"

namespace {

// Up to so many rows each output is a sum along the inputs; from there on rows lie side by side in the vectors.
constexpr int64_t FEW = 4;
// Rows whose sums stay in registers, and how many there may be in all.
constexpr int64_t TOGETHER = 4 * LANES, MOST = 2 * TOGETHER;
// Outputs that a thread takes at once, of any tile a multiple.
constexpr int64_t AT_ONCE = 24;

// y [rows, out] = x [rows, in] * w [out, in]^T + bias [out]
struct Product {
  float* y;
  const float *x, *w, *bias;
  int64_t rows, in, out;

  float plus(int64_t o) const { return bias ? bias[o] : 0.0f; }
};

// O outputs of R rows: each weight is read once for all of them. `ahead`: ask the memory for the next tile's.
template <int O, int R>
inline void few_tile(const Product& p, int64_t o, bool ahead) {
  const float *x = p.x, *w = p.w + o * p.in;
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
      p.y[b * p.out + o + a] = sum + p.plus(o + a);
    }
}

// Outputs `from` to `to` of all rows; after them the thread goes on to the next ones unless they are the `last`.
template <int R>
void few_rows(const Product& p, const float*, int64_t from, int64_t to, bool last) {
  int64_t o = from;
  for (; o + FEW_OUTPUTS <= to; o += FEW_OUTPUTS) few_tile<FEW_OUTPUTS, R>(p, o, !last || o + 2 * FEW_OUTPUTS <= to);
  for (; o < to; ++o) few_tile<1, R>(p, o, false);
}

// O outputs of the N vectors of rows that begin at `first`; turned [in, N * LANES] are these rows side by side. Every
// `each`th time, from `ask` on, ask the memory for weights of the next outputs.
template <int O, int N>
inline void many_tile(const Product& p, const float* turned, int64_t first, int64_t o, int64_t ask, int64_t each) {
  const float* w = p.w + o * p.in;
  Vector sums[O][N] = {};
  int64_t i = 0;
  for (; i + LANES <= p.in; i += LANES) {
    if (ask-- == 0) {
      for (int a = 0; a < O; ++a) __builtin_prefetch(w + (O + a) * p.in + i, 0, 2);
      ask = each - 1;
    }
    // Unrolled, as there are more rows of weights than registers to point at them.
#pragma GCC unroll 16
    for (int j = 0; j < LANES; ++j) add_input(sums, turned + (i + j) * N * LANES, w + i + j, p.in);
  }
  for (; i < p.in; ++i) add_input(sums, turned + i * N * LANES, w + i, p.in);
  float lane[O][N * LANES];
  std::memcpy(lane, sums, sizeof lane);
  const int64_t rows = std::min<int64_t>(N * LANES, p.rows - first);
  for (int64_t r = 0; r < rows; ++r)
    for (int a = 0; a < O; ++a) p.y[(first + r) * p.out + o + a] = lane[a][r] + p.plus(o + a);
}

// The same of rows that lie side by side, turned [tiles, in, N * LANES].
template <int N>
void many_rows(const Product& p, const float* turned, int64_t from, int64_t to, bool last) {
  constexpr int O = OUTPUTS[N - 1];
  const int64_t tiles = (p.rows + N * LANES - 1) / (N * LANES), size = p.in * N * LANES;
  int64_t o = from;
  // All rows of some outputs, whose weights so are read from memory once, before others.
  for (; o + O <= to; o += O)
    for (int64_t t = 0; t < tiles; ++t)
      many_tile<O, N>(p, turned + t * size, t * N * LANES, o, !last || o + 2 * O <= to ? t : -1, tiles);
  for (; o < to; ++o)
    for (int64_t t = 0; t < tiles; ++t) many_tile<1, N>(p, turned + t * size, t * N * LANES, o, -1, tiles);
}

// turned [tiles, in, lanes] of x [rows, in], zeros where there are no more rows; by all threads.
inline void turn(float* turned, const Product& p, int64_t lanes) {
#pragma omp for
  for (int64_t i = 0; i < p.in; i += LANES)
    for (int64_t first = 0; first < p.rows; first += lanes)
      for (int64_t j = i; j < std::min(i + LANES, p.in); ++j)
        for (int64_t r = 0; r < lanes; ++r)
          turned[first * p.in + j * lanes + r] = first + r < p.rows ? p.x[(first + r) * p.in + j] : 0.0f;
}

constexpr decltype(&few_rows<1>) BY_ROWS[] = {few_rows<1>, few_rows<2>, few_rows<3>, few_rows<4>};
constexpr decltype(&many_rows<1>) BY_VECTORS[] = {many_rows<1>, many_rows<2>, many_rows<3>, many_rows<4>};

// Products of the same x.
void multiply(std::initializer_list<Product> products) {
  const Product& one = *products.begin();
  const int64_t rows = one.rows, tiles = (rows + TOGETHER - 1) / TOGETHER;
  // Vectors of rows, in each tile the same number.
  const int64_t vectors = rows <= FEW ? 0 : ((rows + tiles - 1) / tiles + LANES - 1) / LANES;
  // Kept: there are such calls in each layer.
  static thread_local std::vector<float> kept;
  const size_t needed = one.in * tiles * vectors * LANES;
  if (kept.size() < needed) kept.resize(needed);
  float* turned = kept.data();
  int64_t count = 0;
  for (const Product& p : products) count += (p.out + AT_ONCE - 1) / AT_ONCE;
  const auto compute = vectors ? BY_VECTORS[vectors - 1] : BY_ROWS[rows - 1];
  Pieces pieces(count);
#pragma omp parallel if (rows * one.in * count * AT_ONCE > WORTH_THREADS)
  {
    if (vectors) turn(turned, one, vectors * LANES);
    pieces.share_out([&](int64_t piece, bool last) {
      const Product* p = products.begin();
      for (int64_t mine; piece >= (mine = (p->out + AT_ONCE - 1) / AT_ONCE); ++p) piece -= mine;
      const int64_t from = piece * AT_ONCE, to = std::min(from + AT_ONCE, p->out);
      compute(*p, turned, from, to, last || to == p->out);
    });
  }
}

}  // namespace
