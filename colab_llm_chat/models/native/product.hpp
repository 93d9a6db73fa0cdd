// Products of a few rows by a weight as it lies in a model.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "threads.hpp"

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
// Outputs that a thread takes at once, of any tile a multiple. Whoever is held up by another program, such as the one
// that hands on the text, leaves the rest to the others.
constexpr int64_t AT_ONCE = 96;

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

// y [rows, out] = x [rows, in] * w [out, in]^T + bias [out]

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
  const int64_t blocks = (p.out + AT_ONCE - 1) / AT_ONCE;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t end = std::min((block + 1) * AT_ONCE, p.out);
    int64_t o = block * AT_ONCE;
    for (; o + FEW_OUTPUTS <= end; o += FEW_OUTPUTS) few_outputs<FEW_OUTPUTS>(p, o);
    for (; o < end; ++o) few_outputs<1>(p, o);
  }
}

// One input of N vectors of rows, times O weights.
template <int O, int N>
inline void add_input(Vector (&sums)[O][N], const float* turned, const float* w, int64_t in) {
  Vector xs[N];
  for (int n = 0; n < N; ++n) xs[n] = load(turned + n * LANES);
  for (int a = 0; a < O; ++a)
    for (int n = 0; n < N; ++n) sums[a][n] += xs[n] * w[a * in];
}

// O outputs of N vectors of rows; turned [in, N * LANES] are x's rows side by side.
template <int O, int N>
inline void many_tile(const Product& p, const float* turned, int64_t o) {
  const float* w = p.w + o * p.in;
  Vector sums[O][N] = {};
  int64_t i = 0;
  for (; i + LANES <= p.in; i += LANES) {
    for (int a = 0; a < O; ++a) __builtin_prefetch(w + (O + a) * p.in + i, 0, 2);
    // Unrolled, as there are more rows of weights than registers to point at them.
#pragma GCC unroll 16
    for (int j = 0; j < LANES; ++j) add_input(sums, turned + (i + j) * N * LANES, w + i + j, p.in);
  }
  for (; i < p.in; ++i) add_input(sums, turned + i * N * LANES, w + i, p.in);
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
  const int64_t blocks = (p.out + AT_ONCE - 1) / AT_ONCE;
#pragma omp parallel
  {
#pragma omp for
    for (int64_t i = 0; i < p.in; ++i)
      for (int64_t r = 0; r < N * LANES; ++r) turned[i * N * LANES + r] = r < p.rows ? p.x[r * p.in + i] : 0.0f;
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t end = std::min((block + 1) * AT_ONCE, p.out);
      int64_t o = block * AT_ONCE;
      for (; o + O <= end; o += O) many_tile<O, N>(p, turned, o);
      for (; o < end; ++o) many_tile<1, N>(p, turned, o);
    }
  }
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

}  // namespace
