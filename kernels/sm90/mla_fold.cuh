// What lets a block take several parts of a list one after the other, with the bits that a cluster's blocks give, which
// take one each: the sums of the parts behind it wait in memory, which is the L2 cache, on a shelf of the kernel's
// module that belongs to the block while it runs. Every thread reads what it wrote itself.
#pragma once
#include "sm90/mla_block.cuh"

namespace fathom {

struct Sm90MlaShelves {
  static constexpr int kPieces = 33;  // of a thread: its sums, and maxima and totals of its two rows
  static constexpr int kThreads = Sm90MlaBlock<64>::kConsumers;
  u32 taken[kSm90MlaShelves];
  float4 pieces[kSm90MlaShelves][kPieces][kThreads];
};
/// Templates, and so is what takes a shelf, so that modules of kernels that do not fold have none.
template <bool kFolds>
__device__ Sm90MlaShelves sm90_mla_shelves;

template <bool kFolds>
struct Sm90MlaFold {
  using Block = Sm90MlaBlock<64>;
  float4* own;  // of this thread
  __device__ explicit Sm90MlaFold(int shelf)
      : own(sm90_mla_shelves<kFolds>.pieces[shelf][0] + ptx::pinned(threadIdx.x)) {}

  /// One thread takes a free shelf; there are more than blocks at a time.
  static __device__ int take() {
    u32* taken = sm90_mla_shelves<kFolds>.taken;
    int at = static_cast<int>(blockIdx.x) % kSm90MlaShelves;
    while (atomicOr(taken + at, 1u) != 0) at = at + 1 == kSm90MlaShelves ? 0 : at + 1;
    __threadfence();
    return at;
  }
  /// One thread, after all.
  static __device__ void give_back(int shelf) {
    __threadfence();
    *static_cast<volatile u32*>(sm90_mla_shelves<kFolds>.taken + shelf) = 0;
  }

  __device__ __forceinline__ void store(const float (&sum)[2][64], const float (&highest)[2],
                                        const float (&total)[2]) const {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float* four = sum[i / 16] + i % 16 * 4;
      own[i * Sm90MlaShelves::kThreads] = {four[0], four[1], four[2], four[3]};
    }
    own[32 * Sm90MlaShelves::kThreads] = {highest[0], highest[1], total[0], total[1]};
  }
  /// The sums of the parts before are added to those of a part. They come by way of shared memory at
  /// `landing`, 16 bytes of a thread in every 512: registers have no room for as many loads at a time.
  __device__ __forceinline__ void add(float (&sum)[2][64], float (&highest)[2], float (&total)[2], u32 landing) const {
    constexpr int kAtATime = 16;
    Block::Factors factors[2];
#pragma unroll
    for (int first = 0; first < 32; first += kAtATime) {
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        ptx::cp_async_16(landing + 512 * i, own + (first + i) * Sm90MlaShelves::kThreads, true);
      }
      if (first == 0) {
        const uint4 v = ptx::ld_global_early(own + 32 * Sm90MlaShelves::kThreads);
        const float highest_before[2] = {__uint_as_float(v.x), __uint_as_float(v.y)};
        const float total_before[2] = {__uint_as_float(v.z), __uint_as_float(v.w)};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          factors[h] = Block::factors_of(highest_before[h], highest[h]);
          highest[h] = fmaxf(highest_before[h], highest[h]);
          total[h] = Block::add(total_before[h], total[h], factors[h]);
        }
      }
      ptx::cp_async_wait_all();
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        const float4 v = ptx::ld_shared_4(landing + 512 * i);
        float* four = sum[(first + i) / 16] + (first + i) % 16 * 4;
        four[0] = Block::add(v.x, four[0], factors[0]);
        four[1] = Block::add(v.y, four[1], factors[0]);
        four[2] = Block::add(v.z, four[2], factors[1]);
        four[3] = Block::add(v.w, four[3], factors[1]);
      }
    }
  }
};

}  // namespace fathom
