// Problems of the ops that normalise, rotate and store, for their tests on the host and on a device.
#pragma once
#include <algorithm>
#include <array>
#include <numeric>
#include <ostream>
#include <vector>

#include "fathom/ops/rope.hpp"
#include "ops/op_test.hpp"

namespace fathom {

inline constexpr std::int64_t kPrepareTable = 100;  // positions

struct PrepareCase {
  std::int64_t tokens, dim, rope_dim, offset;
  RopeStyle style;
  bool hadamard;
  DType x, weight;
  bool wide = false;       // i64 positions and slots
  std::int64_t page = 64;  // tokens of a page of index keys
};
inline std::ostream& operator<<(std::ostream& out, const PrepareCase& c) {
  return out << c.tokens << " x " << c.dim << ", " << c.rope_dim << " at " << c.offset << " "
             << to_string(c.style) << " hadamard " << c.hadamard << " " << to_string(c.x) << " "
             << to_string(c.weight);
}

/// The model's rows in every form, and rows of odd sizes.
inline std::vector<PrepareCase> prepare_cases() {
  std::vector<PrepareCase> cases;
  for (const RopeStyle style : {RopeStyle::half_split, RopeStyle::interleaved}) {
    for (const bool hadamard : {true, false}) {
      for (const DType x : {DType::f32, DType::bf16}) {
        cases.push_back({1, 128, 64, 0, style, hadamard, x, DType::bf16});
        cases.push_back({67, 128, 64, 64, style, hadamard, x, DType::f32, true, hadamard ? 16 : 128});
      }
    }
    cases.push_back({0, 128, 64, 0, style, true, DType::f32, DType::f32});
    cases.push_back({33, 128, 0, 5, style, true, DType::bf16, DType::bf16});
    cases.push_back({9, 70, 38, 7, style, false, DType::f32, DType::bf16});
    cases.push_back({5, 64, 64, 0, style, true, DType::bf16, DType::f32});
    cases.push_back({21, 32, 8, 2, style, false, DType::f32, DType::f32, false, 32});
    cases.push_back({3, 16, 6, 3, style, true, DType::f32, DType::f32});
    cases.push_back({4, 512, 64, 33, style, true, DType::f32, DType::bf16});
    cases.push_back({2, 1, 0, 1, style, true, DType::f32, DType::f32});
  }
  return cases;
}

struct MlaPrepareCase {
  std::int64_t tokens, lora, rope_dim, heads;
  RopeStyle style;
  DType cache, x;
};
inline std::ostream& operator<<(std::ostream& out, const MlaPrepareCase& c) {
  return out << to_string(c.style) << " " << to_string(c.cache) << " " << c.tokens << " " << c.lora << " "
             << to_string(c.x);
}

/// The model's sizes, odd ones, and `own`, in every form.
inline std::vector<MlaPrepareCase> mla_prepare_cases(const std::array<std::int64_t, 4>& own) {
  std::vector<MlaPrepareCase> cases;
  for (const RopeStyle style : {RopeStyle::interleaved, RopeStyle::half_split}) {
    for (const DType cache : {DType::u8, DType::bf16, DType::f32}) {
      for (const auto& [tokens, lora, rope_dim, heads] : {std::array<std::int64_t, 4>{1, 512, 64, 128},
                                                          {67, 512, 64, 3},
                                                          {5, 128, 6, 0},
                                                          {9, 300, 38, 2},
                                                          own}) {
        if (cache == DType::u8 && lora % 128 != 0) continue;
        for (const DType x : {DType::f32, DType::bf16})
          cases.push_back({tokens, lora, rope_dim, heads, style, cache, x});
      }
    }
  }
  return cases;
}

/// Keys of 32, 64 or 128 values can be quantised.
inline bool fits_u8_pages(const PrepareCase& c) { return c.dim == 32 || c.dim == 64 || c.dim == 128; }

inline Tensor random_positions(Random& random, const PrepareCase& c) {
  Tensor positions(c.wide ? DType::i64 : DType::i32, {c.tokens});
  for (std::int64_t t = 0; t < c.tokens; ++t)
    positions.set(t, static_cast<double>(random.integer(0, kPrepareTable - 1)));
  return positions;
}

/// Distinct slots below `count`, one in five -1.
inline Tensor random_slots(Random& random, const PrepareCase& c, std::int64_t count) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random.engine());
  Tensor slots(c.wide ? DType::i64 : DType::i32, {c.tokens});
  for (std::int64_t t = 0; t < c.tokens; ++t)
    slots.set(t, t % 5 == 3 ? -1.0 : static_cast<double>(all[static_cast<std::size_t>(t)]));
  return slots;
}

/// The first columns of rows that are further apart.
inline TensorView first_columns(TensorView x, std::int64_t width) {
  x.shape[1] = width;
  return x;
}

/// Rows of `heads` heads of `dim` values, `head` elements apart.
inline TensorView with_heads(TensorView x, std::int64_t heads, std::int64_t dim, std::int64_t head,
                             std::int64_t offset = 0) {
  const std::int64_t row = x.step(0);
  x.rank = 3;
  x.shape = {x.size(0), heads, dim};
  x.stride = {row, head, 1};
  if (x.data != nullptr) x.data = x.as<std::byte>() + offset * size_of(x.dtype);
  return x;
}
inline TensorView with_one_head(const TensorView& x) { return with_heads(x, 1, x.size(1), x.size(1)); }

}  // namespace fathom
