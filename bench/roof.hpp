// What this machine can do at most, measured: the ceilings that bench results are compared with.
#pragma once
#include <string_view>

#include "fathom/core/context.hpp"

namespace fathom {

struct Roof {
  double read_bytes_per_second = 0;  // from memory, all threads of the context
  double flops_per_second = 0;       // of the instruction below, all threads
  std::string_view flops_unit;       // "bf16 dot" where the CPU has AVX-512 BF16, else "f32 fma"
};

/// Takes about half a second.
Roof measure_roof(const Context& context);

namespace roof_detail {
/// Sums `count` words; the sum keeps the loads alive.
std::uint64_t read_words(const std::uint64_t* words, std::int64_t count);
/// Runs `rounds` rounds of independent multiply-adds and returns the flops done; `sink` keeps them alive.
double run_fma(std::int64_t rounds, float* sink);
bool has_bf16_dot();
double run_bf16_dot(std::int64_t rounds, float* sink);
}  // namespace roof_detail

}  // namespace fathom
