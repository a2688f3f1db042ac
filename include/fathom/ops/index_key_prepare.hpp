// From the indexer's key projection to the paged cache of keys, in one step.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"
#include "fathom/ops/rope.hpp"

namespace fathom {

struct IndexKeyPrepareProblem {
  static constexpr std::string_view op = "index_key_prepare";
  std::int64_t tokens = 1;
  std::int64_t dim = 128;
  std::int64_t rope_dim = 64;
  std::int64_t offset = 0;
  RopeStyle style = RopeStyle::half_split;
  bool hadamard = true;
  DType k = DType::f32;
  DType weight = DType::bf16;  // of weight and bias
  DType slots = DType::i32;
  DType cache = DType::u8;
  bool ue8m0 = false;
  std::int64_t page = 64;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("dim", dim);
    visit("rope_dim", rope_dim);
    visit("offset", offset);
    visit("style", style);
    visit("hadamard", hadamard);
    visit("k", k);
    visit("weight", weight);
    visit("slots", slots);
    visit("cache", cache);
    visit("ue8m0", ue8m0);
    visit("page", page);
  }
  bool operator==(const IndexKeyPrepareProblem&) const = default;
};

struct IndexKeyPrepareArgs {
  TensorView k;             // [tokens, dim]
  TensorView weight;        // [dim]
  TensorView bias;          // [dim]
  TensorView positions;     // [tokens]
  TensorView cos_sin;       // [max_positions, rope_dim]
  TensorView slots;         // [tokens]
  TensorView cache;         // as index_key_store's, written
  std::int64_t offset = 0;  // first rotated element
  RopeStyle style = RopeStyle::half_split;
  bool hadamard = true;
  bool ue8m0 = false;
  float epsilon = 1e-6f;
};

/// Normalises, rotates and stores the index key of every token:
///
///   index_key_store(hadamard(rope(layer_norm(k))))   with the bytes of these ops, f32 between them
///
///   k          [tokens, dim]              f32 or bf16; what the projection gave, not written
///   weight     [dim]                      f32 or bf16; of the layer norm
///   bias       [dim]                      the dtype of weight
///   positions  [tokens]                   i32 or i64, within the table
///   cos_sin    [max_positions, rope_dim]  f32, see rope; elements [offset, offset + rope_dim) are rotated
///   slots      [tokens]                   i32 or i64; -1 skips the token; a slot may not appear twice
///   cache      as in index_key_store; dim is 32, 64 or 128 with a u8 cache, on CUDA at most 512
///   hadamard   left out if false: keys and queries of one cache must agree. dim is a power of two if true
///
/// A token's bytes depend neither on the other tokens nor on the threads. Throws InvalidArgument where one of
/// the ops would; nothing is written then. On a device a token is skipped whose slot is not in the cache, and
/// one whose position is not in the table is not rotated.
void index_key_prepare(const IndexKeyPrepareArgs& args, const Context& context);

}  // namespace fathom
