// The indexer's scores on Hopper's tensor cores: logits[row, j] = scale[j] * sum_h weight[row, h] * max(0,
// q[row, h] . k[j]) for FP8 queries and keys of up to 128 elements.
//
// Keys are the 64-row operand of the matrix instruction, the heads of one or two query tokens its columns: a
// tile of 64 keys meets every token of its request, so a key is fetched once whatever their number, and the
// sum over heads stays in registers but for two exchanges. All tiles of all requests are dealt to the blocks
// in equal runs, from the lengths themselves: there is no schedule that could be stale. A score is computed
// in one way only, whatever the call, the run and the tokens that share an instruction.
#pragma once
#include "sm90/mqa_load.cuh"
#include "sm90/mqa_drafts.cuh"
#include "sm90/mqa_score.cuh"

namespace fathom {

template <int kHeads, int kDim, int kPage>
__device__ void sm90_mqa(const Sm90MqaKernel& args) {
  extern __shared__ u8 shared[];
  Sm90MqaBlock<kHeads, kDim, kPage> block(args, shared);
  block.share_out();
  constexpr int kTokens = block.kTogether;
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0);
  if (group < kSm90MqaGroups) {
    ptx::setmaxnreg_inc<sm90_mqa_scorer_registers(kTokens * kHeads)>();
    if constexpr (kTokens == 2) {
      if (block.pairs()) return Sm90MqaDrafts<kHeads, kDim, kPage>{block}.consume(group);
    }
    Sm90MqaScorer<kHeads, kDim, kPage, kTokens>{block}.consume(group);
    return;
  }
  ptx::setmaxnreg_dec<sm90_mqa_loader_registers(kTokens * kHeads)>();
  const Sm90MqaLoader<kHeads, kDim, kPage> loader{block};
  if (threadIdx.x / 32 % 4 == 0) {
    loader.produce();
  } else {
    loader.fill();
  }
}

}  // namespace fathom
