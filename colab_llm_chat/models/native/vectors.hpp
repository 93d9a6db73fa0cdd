// Vectors of the widest kind, and what is computed with them one by one.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Lanes of a vector, and the tiles whose sums stay in registers: 32 of them with AVX-512, 16 narrower ones elsewhere.
#ifdef __AVX512F__
constexpr int LANES = 16, FEW_OUTPUTS = 4, FEW_ROWS = 4;
constexpr int OUTPUTS[] = {12, 8, 6, 6}, SUMS = 16;
#else
constexpr int LANES = 8, FEW_OUTPUTS = 2, FEW_ROWS = 4;
constexpr int OUTPUTS[] = {8, 4, 3, 2}, SUMS = 8;
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The lanes of a vector, so many places further round.
template <int FURTHER>
inline Vector rotated(const Vector& v) {
#ifdef __clang__
  constexpr int M = LANES - 1, F = FURTHER;
#if defined(__AVX512F__)
  return __builtin_shufflevector(v, v, F, (1 + F) & M, (2 + F) & M, (3 + F) & M, (4 + F) & M, (5 + F) & M, (6 + F) & M,
                                 (7 + F) & M, (8 + F) & M, (9 + F) & M, (10 + F) & M, (11 + F) & M, (12 + F) & M,
                                 (13 + F) & M, (14 + F) & M, (15 + F) & M);
#else
  return __builtin_shufflevector(v, v, F, (1 + F) & M, (2 + F) & M, (3 + F) & M, (4 + F) & M, (5 + F) & M, (6 + F) & M,
                                 (7 + F) & M);
#endif
#else
  typedef int32_t Places __attribute__((vector_size(LANES * sizeof(int32_t))));
  Places places;
  for (int i = 0; i < LANES; ++i) places[i] = (i + FURTHER) % LANES;
  return __builtin_shuffle(v, places);
#endif
}

// Pairwise: shorter chains of additions, and the same order wherever it is called. Whole vectors all along: what takes
// a part of one brings it to memory.
inline float total(Vector v) {
  if constexpr (LANES == 16) v += rotated<8 % LANES>(v);
  v += rotated<4>(v);
  v += rotated<2>(v);
  v += rotated<1>(v);
  return v[0];
}

// sums += an input of N vectors of rows, times O weights that lie `apart` from each other.
template <int O, int N>
inline void add_input(Vector (&sums)[O][N], const float* turned, const float* w, int64_t apart) {
  Vector xs[N];
  for (int n = 0; n < N; ++n) xs[n] = load(turned + n * LANES);
  for (int a = 0; a < O; ++a)
    for (int n = 0; n < N; ++n) sums[a][n] += xs[n] * w[a * apart];
}

// e^x for x <= 0, after Cephes' expf: within 2 units in the last place down to -87 and no less from there on, and a
// NaN stays one.
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

}  // namespace
