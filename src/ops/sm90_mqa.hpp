// The indexer's scores on Hopper's tensor cores, for mqa_logits and paged_mqa_logits. See
// kernels/sm90/mqa.cuh.
#pragma once
#include <cstdint>
#include <vector>

#include "cuda/driver.hpp"
#include "jit/jit.hpp"
#include "layout/sm90_mqa.cuh"
#include "ops/dispatch.hpp"

namespace fathom {

struct Sm90MqaShape {
  bool ragged = false;
  bool f8 = true;
  bool aligned = true;  // TMA can address the tensors
  std::int64_t heads = 64;
  std::int64_t head_dim = 128;
  std::int64_t page = 64;  // keys of a page; a ragged call has none
  std::int64_t requests = 1;
  std::int64_t next_n = 1;
  std::int64_t columns = 0;  // of logits
};
/// Tokens of a ragged call that are scored together.
std::int64_t sm90_mqa_tokens(std::int64_t heads);

/// What a kernel is compiled for.
struct Sm90MqaPlan {
  std::int32_t heads;  // rounded up to 8, 16, 32, 48, 64, 96 or 128
  std::int32_t ragged;
  std::int32_t head_dim;
  std::int32_t page;
  std::int32_t decode;  // tokens of a request, if there are one or two
};
Sm90MqaPlan sm90_mqa_plan(const Sm90MqaShape& shape);
jit::Source sm90_mqa_source(const Sm90MqaPlan& plan);

/// How much is under way in a block; stages is 0 if not even the least fits into shared memory.
struct Sm90MqaStages {
  int stages = 0;
  int q_stages = 0;
  std::int64_t shared_bytes = 0;
};
Sm90MqaStages sm90_mqa_stages(const Sm90MqaShape& shape, const cuda::DeviceInfo& device);

Verdict sm90_mqa_verdict(const Sm90MqaShape& shape, const cuda::DeviceInfo& device);

/// `keys` and `q` of `args` are described here; the rest is the caller's.
void run_sm90_mqa(const Sm90MqaShape& shape, Sm90MqaKernel& args, const TensorView& keys, const TensorView& q,
                  const Context& context);

/// Weights are copied in bulk unless heads are added to them.
bool suits_sm90_mqa(const TensorView& q, const TensorView& weights, const TensorView& keys);

/// Whether TMA and bulk copies can address a tensor: it is not empty, its address and the distances of all
/// but the last axis are multiples of 16 bytes.
bool suits_bulk_copies(const TensorView& tensor);

}  // namespace fathom
