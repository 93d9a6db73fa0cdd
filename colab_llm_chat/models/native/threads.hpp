// When OpenMP's threads are worth it.

#pragma once

#include <cstdint>

#include <omp.h>

namespace {

// Less work than this is done before a second thread has begun.
constexpr int64_t WORTH_THREADS = 1 << 15;

}  // namespace
