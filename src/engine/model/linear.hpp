// Linear: the matrix product that a weight's format and the model's precision ask for.
#pragma once
#include "engine/model/arena.hpp"
#include "engine/model/weights.hpp"
#include "fathom/core/context.hpp"
#include "fathom/ops/grouped.hpp"

namespace fathom {

/// The input of several matrices, in the formats that these need; each format is made on first use.
struct Activation {
  TensorView f32;    // [rows, k]
  TensorView bf16;   // [rows, k]
  TensorView fp8;    // [rows, k], with
  TensorView scale;  // [rows, ceil(k/128)]
  std::int64_t rows() const { return f32.given() ? f32.size(0) : bf16.given() ? bf16.size(0) : fp8.size(0); }
};

class Linear {
 public:
  /// `read` counts the bytes of weights and scales that products read.
  Linear(Precision precision, Arena& arena, const Context& context, std::int64_t& read)
      : precision_(precision), arena_(arena), context_(context), read_(read) {}

  /// out = x * w^T in f32, or out += with accumulate.
  void operator()(const Weight& w, Activation& x, const TensorView& out, bool accumulate = false) const;
  /// The same into a new tensor [rows, n].
  TensorView operator()(const Weight& w, Activation& x) const;
  /// Every row with the weights of its own expert.
  void grouped(const ExpertWeights& w, const Activation& x, const GroupedRows& rows,
               const TensorView& out) const;
  /// silu(gate) * up of gate_up [rows, 2 * dim], in the format that `next` reads.
  Activation gated(const TensorView& gate_up, const TensorView& next) const;
  /// Counts the bytes of a matrix as read.
  void count(const TensorView& values, const TensorView& scale) const;
  /// Makes sure that `x` has the format that `w` reads, and returns it.
  const TensorView& prepare(const TensorView& w, Activation& x) const;
  /// The rows of `x`, in the format that `w` reads, brought together expert by expert: see moe_permute.
  Activation permuted(const TensorView& w, Activation& x, const TensorView& ids,
                      const TensorView& slot_to_row, const TensorView& offsets) const;

 private:
  enum class Arithmetic { f32, bf16, fp8 };
  Arithmetic arithmetic(const TensorView& w) const;

  Precision precision_;
  Arena& arena_;
  const Context& context_;
  std::int64_t& read_;
};

}  // namespace fathom
