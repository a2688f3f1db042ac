// Latent attention over a list of entries on Hopper's tensor cores: bf16 products with sums in f32, for u8 and bf16
// caches. See mla_block.cuh, and mla_wide.cuh and mla_narrow.cuh for how the products are cut.
#pragma once
#include "sm90/mla_codes.cuh"
#include "sm90/mla_narrow.cuh"
#include "sm90/mla_wide.cuh"

namespace fathom {

template <int kHeads, bool kFolds, bool kCodes>
__device__ inline void sm90_sparse_mla(const Sm90MlaKernel& args) {
  extern __shared__ u8 shared[];
  if constexpr (kCodes) {
    Sm90MlaCodes(args, shared).run();
  } else if constexpr (kHeads == 64) {
    Sm90MlaWide<kFolds>(args, shared).run();
  } else {
    Sm90MlaNarrow<kHeads>(args, shared).run();
  }
}

}  // namespace fathom
