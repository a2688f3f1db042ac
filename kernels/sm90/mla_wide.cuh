// Latent attention of 64 heads of a token: the heads are the rows of the matrix instruction.
//
// Warpgroup 0 has the scores of a tile's 64 entries and the left half of the output's columns, warpgroup 1 the right
// half. While 1 works on a tile's right half, 0 is at the next tile's scores already. A block that has whole lists
// stays for several items (a token and 64 heads): the producers list and gather the next item's entries while the last
// one's rows are written.
//
// A block that folds has several parts of a list: the sums of those behind it wait on its shelf (mla_fold.cuh), and the
// end of a part adds them to its own.
//
// Barriers: listed(), the list's length is there, and taken(), every consumer warp knows it. Named: 1 and 2, weights
// and factors of the tile in buffer 0 or 1; 3, within warpgroup 0; 4, both are done with the tiles; 5 and 6, see
// mla_block.cuh; 7 and 8, maxima of an even or odd part that is not the list's last.
#pragma once
#include "sm90/mla_fold.cuh"
#include "sm90/mla_wide_gather.cuh"

namespace fathom {

template <bool kFolds>
struct Sm90MlaWide : Sm90MlaWideGather {
  using Sm90MlaWideGather::Sm90MlaWideGather;
  static constexpr int kPartTiles = sm90_mla_part(64) / kSm90MlaEntries;

  /// They take the place of the rotated columns, which only the scores need.
  __device__ u32 weights_of(int buffer) const { return entries() + buffer * kSm90MlaTile + 8 * kBlockBytes; }
  /// sum += weights of the tile times its columns from 256 * half on; multiply(sum, k, b) takes 16 entries.
  template <class Multiply>
  __device__ __forceinline__ void add_tile(float (&sum)[2][64], int buffer, int half, const Multiply& multiply) const {
    const u32 b = ptx::wgmma_transposed_low(entries() + buffer * kSm90MlaTile + half * 4 * kBlockBytes, kBlockBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {  // 256 columns at once need more registers than 512 threads have at entry
        multiply(sum[n], k, ptx::wgmma_descriptor(b + n * 2 * kBlockBytes / 16 + k * 2048 / 16));
      }
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
#pragma unroll
    for (int i = 0; i < 128; ++i) ptx::keep(sum[i / 64][i % 64]);
  }
  /// The fence between a producer's stores and the products is here: it waits for all that a thread has under way, and
  /// with a producer that would be the next entries as well.
  __device__ __forceinline__ void await_full(int gathered) const {
    ptx::mbarrier_wait(full(gathered % kSm90MlaBuffers), gathered / kSm90MlaBuffers & 1);
    ptx::fence_proxy_async();
  }
  __device__ __forceinline__ void release(int buffer) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty(buffer));
  }
  __device__ __forceinline__ void finish(const float (&sum)[2][64], int row, int half) const {
    const int lane = thread_now() % 32;
    ptx::bar_sync(4, kConsumers);
    float* to = partial(0) + row * kSm90MlaRow + half * 256 + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      const float* four = sum[j / 16] + j % 16 * 4;
      *reinterpret_cast<float2*>(to + 8 * j) = {four[0], four[1]};
      *reinterpret_cast<float2*>(to + 8 * kSm90MlaRow + 8 * j) = {four[2], four[3]};
    }
  }

  /// Sums and totals count from `highest`, which follows the highest score by up to 2^kSlack: so it moves a few times
  /// only, and sums are seldom rescaled. A head's own scores decide when.
  static constexpr float kSlack = 8;
  static __device__ __forceinline__ void rescale(float (&sum)[2][64], const float (&shrink)[2]) {
    if (__any_sync(~0u, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i / 64][i % 64] *= shrink[i / 2 % 2];
    }
  }

  /// A value that is worked out anew where it is used: a block that folds has no register to keep it.
  static __device__ int now(u32 value) { return static_cast<int>(kFolds ? ptx::pinned(value) : value); }
  static __device__ int thread_now() { return now(threadIdx.x) % 128; }
  /// A block that has all entries writes bf16 rows itself: no part is joined with others.
  __device__ bool direct() const { return now(kernel.blocks) == 1 && kernel.aligned_out && args.out.bf16; }
  /// What the sums of a head are multiplied by in the end; its log-sum-exp is written.
  __device__ __forceinline__ float share_of(float highest, float total, int row) const {
    const int head = head0 + row;
    if (head >= args.heads) return 0;
    const bool writes = thread_now() % 4 == 0;
    if (args.lse != nullptr && writes) {
      args.lse[i64{token} * args.lse_row + head] = 0.693147181f * (highest + log2f(total));
    }
    if (args.sink != nullptr && total != 0) total += exp2f(args.sink[head] * kLog2E - highest);
    return total == 0 ? 0.0f : 1.0f / total;  // no entry: zeros
  }
  /// A warp's 16 rows of 256 columns go through shared memory, over its half of the columns of the last tile, and out
  /// as whole rows.
  __device__ __forceinline__ void put(const float (&sum)[2][64], const float (&share)[2], int buffer, int half) const {
    const int thread = static_cast<int>(ptx::pinned(threadIdx.x) % 128);  // or it takes registers of the loop before
    const int lane = thread % 32;
    const int warp = thread / 32;
    const int at = kTilesAt + buffer * kSm90MlaTile + half * 4 * kBlockBytes + warp * 16 * 512;
    if (count > 0) {
      const u32 to = queries + at + lane % 16 * 512 + (lane / 16 ^ lane % 8) * 16;
#pragma unroll
      for (int i = 0; i < 16; ++i) {  // 16 columns
        const float* eight = sum[i / 8] + i % 8 * 8;
        ptx::stmatrix_x4(to ^ 32 * i,
                         ptx::cvt_bf16x2(eight[0] * share[0], eight[1] * share[0]),
                         ptx::cvt_bf16x2(eight[2] * share[1], eight[3] * share[1]),
                         ptx::cvt_bf16x2(eight[4] * share[0], eight[5] * share[0]),
                         ptx::cvt_bf16x2(eight[6] * share[1], eight[7] * share[1]));
      }
      __syncwarp();
    }
    u16* out = static_cast<u16*>(args.out.data) + i64{token} * args.out.row + half * 256 + lane * 8;
    const int heads = args.heads - head0 - warp * 16;
#pragma unroll 2
    for (int r = 0; r < 16; ++r) {
      if (r >= heads) break;
      uint4 v = {0, 0, 0, 0};
      if (count > 0) v = *reinterpret_cast<const uint4*>(start + at + r * 512 + (lane ^ r % 8) * 16);
      *reinterpret_cast<uint4*>(out + (head0 + warp * 16 + r) * args.out.head) = v;
    }
    if (count > 0) release(buffer);
  }

  /// This block's items: first_item() and every stride()-th further.
  __device__ int items() const { return static_cast<int>(args.tokens) * ((now(args.heads) + 63) / 64); }
  __device__ int stride() const { return kFolds ? now(gridDim.x) : static_cast<int>(gridDim.x) / kernel.blocks; }
  __device__ int first_item() const { return static_cast<int>(blockIdx.x) / (kFolds ? 1 : kernel.blocks); }

  /// One from the other, so that a loop keeps one of them.
  __device__ int item_of(int turn, int counted) const {
    return kFolds ? first_item() + now(turn) * now(gridDim.x) : counted;
  }
  __device__ int turn_of(int item, int counted) const {
    return kFolds ? static_cast<int>(static_cast<u32>(now(item)) / gridDim.x) : counted;
  }
  /// A consumer begins its turn-th item: how many entries it has. Returns the tiles gathered before, modulo 4, which is
  /// what buffers and phases need; a block that does not fold counts them.
  __device__ __forceinline__ int await_list(int turn) {
    ptx::mbarrier_wait(listed(), turn & 1);
    const int told = counts()[turn & 1];
    count = kFolds ? told % 4096 : told;
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(taken());
    return told / 4096;
  }

  /// A thread has the total of its own entries; now of its rows'.
  static __device__ __forceinline__ void total_of_rows(float (&total)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += __shfl_xor_sync(~0u, total[h], 1);
      total[h] += __shfl_xor_sync(~0u, total[h], 2);
    }
  }
  __device__ bool ends_part(int tile) const { return tile % kPartTiles == kPartTiles - 1 || tile + 1 == tiles(); }
  /// Maxima of a part's rows, for the other warpgroup.
  __device__ float* maxima_of(int part) const { return exchange() + 128 + part % 2 * 64; }
  /// A consumer's thread has the sums of a part, which ends with a tile; those of the parts before are added, and they
  /// wait together. The tile is released; half of its columns, which this warpgroup has done with, is where they land.
  __device__ __forceinline__ void fold(float (&sum)[2][64], float (&highest)[2], float (&total)[2], int tile,
                                       int buffer, int half) const {
    const Sm90MlaFold<kFolds> shelf(*shelf_number());  // found anew: it takes no registers in the loop
    if (tile >= kPartTiles) {
      const int thread = thread_now();
      shelf.add(sum, highest, total,
                entries() + buffer * kSm90MlaTile + half * 4 * kBlockBytes + thread / 32 * 8192 + thread % 32 * 16);
    } else {
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i / 64][i % 64] += 0.0f;  // as a cluster's blocks add it to 0: no -0
    }
    if (tile + 1 == tiles()) return;
    release(buffer);
    shelf.store(sum, highest, total);
#pragma unroll
    for (int h = 0; h < 2; ++h) highest[h] = __uint_as_float(0xff800000u), total[h] = 0;
#pragma unroll
    for (int i = 0; i < 128; ++i) sum[i / 64][i % 64] = 0;
  }

  __device__ __forceinline__ void consume_left() {
    const float lowest = __uint_as_float(0xff800000u);
    const int outer = static_cast<int>(threadIdx.x) % 128;
    const float outer_scale = args.softmax_scale * kLog2E;
    fetch_queries<128>(outer);
    if constexpr (kFolds) {
      if (threadIdx.x == 0) *shelf_number() = Sm90MlaFold<kFolds>::take();
    }
    int gathered = 0;  // tiles of earlier items
    int turn = 0;
    for (int item = first_item(); item_of(turn, item) < items(); item += stride(), ++turn) {
      if (!kFolds) take(item);
      ptx::cp_async_wait_all();
      ptx::fence_proxy_async();
      ptx::bar_sync(3, 128);
      const int before = await_list(turn);
      if (kFolds) gathered = before;
      float highest[2] = {lowest, lowest};
      float total[2] = {0, 0};  // of this thread's entries
      float sum[2][64] = {};
      for (int tile = 0; tile < tiles(); ++tile) {
        const int buffer = (gathered + tile) % kSm90MlaBuffers;
        if (!kFolds && tile > 0) release(buffer ^ 1);
        await_full(gathered + tile);
        float score[32] = {};
        {
          const u32 a = ptx::wgmma_descriptor_low(queries);
          const u32 b = ptx::wgmma_descriptor_low(entries() + buffer * kSm90MlaTile);
          ptx::wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4 * kSm90MlaBlocks; ++k) {
            const u32 step = k / 4 * (kBlockBytes / 16) + k % 4 * 2;  // of both: 64 rows
            ptx::Wgmma<false, 64>::multiply(score, ptx::wgmma_descriptor(a + step), ptx::wgmma_descriptor(b + step),
                                            k > 0);
          }
          ptx::wgmma_commit_group();
          ptx::wgmma_wait_group<0>();
#pragma unroll
          for (int i = 0; i < 32; ++i) ptx::keep(score[i]);
        }
        const int thread = kFolds ? thread_now() : outer;
        const int lane = thread % 32;
        const int row = thread / 32 * 16 + lane / 4;  // and row + 8
        // Of the address that this lane gives for four matrices of weights: rows of two, entries of the next eight.
        const int weight_at = place(thread / 32 * 16 + lane % 16, lane / 16, kBlockBytes);
        const int left = count - tile * kSm90MlaEntries;
        const float scale = kFolds ? __int_as_float(now(__float_as_uint(args.softmax_scale))) * kLog2E : outer_scale;
#pragma unroll
        for (int i = 0; i < 32; ++i) score[i] *= scale;
        if (left < kSm90MlaEntries) {
#pragma unroll
          for (int i = 0; i < 32; ++i) score[i] = i / 4 * 8 + i % 2 < left - lane % 4 * 2 ? score[i] : lowest;
        }
        float shrink[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float most[4];  // which do not wait for each other
#pragma unroll
          for (int i = 0; i < 4; ++i) most[i] = fmaxf(score[8 * i + 2 * h], score[8 * i + 2 * h + 1]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            most[i] = fmaxf(most[i], fmaxf(score[8 * i + 4 + 2 * h], score[8 * i + 5 + 2 * h]));
          }
          most[0] = fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));
          most[0] = fmaxf(most[0], __shfl_xor_sync(~0u, most[0], 1));
          most[0] = fmaxf(most[0], __shfl_xor_sync(~0u, most[0], 2));
          const bool moves = most[0] > highest[h] + kSlack;
          shrink[h] = moves ? ptx::exp2(highest[h] - most[0]) : 1.0f;  // 0 at first
          highest[h] = moves ? most[0] : highest[h];
          total[h] *= shrink[h];
          if (lane % 4 == 0) exchange()[buffer * 64 + row + 8 * h] = shrink[h];
        }
        u32 weights[4][4];
#pragma unroll
        for (int i = 0; i < 32; i += 8) {  // 16 entries; the other warpgroup gets them through memory
          u32(&pair)[4] = weights[i / 8];
#pragma unroll
          for (int m = 0; m < 4; ++m) {
            const float low = ptx::exp2(score[i + 2 * m] - highest[m % 2]);
            const float high = ptx::exp2(score[i + 2 * m + 1] - highest[m % 2]);
            total[m % 2] += low + high;
            pair[m] = ptx::cvt_bf16x2(low, high);
          }
          ptx::stmatrix_x4((weights_of(buffer) + weight_at) ^ (i / 4 * 16), pair[0], pair[1], pair[2], pair[3]);
        }
        ptx::fence_proxy_async();
        ptx::bar_arrive(1 + buffer, kConsumers);
        rescale(sum, shrink);
        add_tile(sum, buffer, 0, [&weights](float (&d)[64], int k, u64 b) {
          ptx::WgmmaRegisters128::multiply(d, weights[k], b);
        });
        if constexpr (kFolds) {
          if (!ends_part(tile)) {
            release(buffer);
          } else {
            total_of_rows(total);
            const int part = tile / kPartTiles;
            const int t = thread_now();
            if (t % 4 == 0) {
              float* maxima = maxima_of(part) + t / 32 * 16 + t % 32 / 4;
              maxima[0] = highest[0];
              maxima[8] = highest[1];
            }
            if (tile + 1 < tiles()) {
              ptx::bar_arrive(7 + part % 2, kConsumers);
              ptx::bar_sync(3, 128);
            } else {
              ptx::bar_sync(4, kConsumers);
            }
            fold(sum, highest, total, tile, buffer, 0);
          }
        }
      }
      gathered += tiles();
      ptx::bar_sync(3, 128);
      const int after = kFolds ? item_of(turn, item) + stride() : item + stride();
      if (after < items()) {  // its queries take the place of this one's, which every warp has done with
        Sm90MlaWide next = *this;
        next.take(after);
        next.fetch_queries<128>(kFolds ? thread_now() : outer);
      }
      if (kFolds) take(item_of(turn, item));
      const int thread = kFolds ? thread_now() : outer;
      const int lane = thread % 32;
      const int row = thread / 32 * 16 + lane / 4;
      float share[2];
      if (!kFolds) total_of_rows(total);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (!direct()) {
          if (lane % 4 == 0) set_statistics(0, row + 8 * h, highest[h], total[h]);
        } else {
          share[h] = share_of(highest[h], total[h], row + 8 * h);
          if (lane % 4 == 0) statistics()[turn % 2 * 64 + row + 8 * h] = share[h];
        }
      }
      if (direct()) {
        ptx::bar_sync(4, kConsumers);
        put(sum, share, (gathered - 1) % kSm90MlaBuffers, 0);
      } else {
        finish(sum, row, 0);
      }
    }
  }

  __device__ __forceinline__ void consume_right() {
    const int outer = static_cast<int>(threadIdx.x) % 128;
    int gathered = 0;
    int turn = 0;
    for (int item = first_item(); item < items(); item += stride(), ++turn) {
      if (!kFolds) take(item);
      const int before = await_list(turn_of(item, turn));
      if (kFolds) gathered = before;
      float sum[2][64] = {};
      for (int tile = 0; tile < tiles(); ++tile) {
        const int buffer = (gathered + tile) % kSm90MlaBuffers;
        if (!kFolds && tile > 0) release(buffer ^ 1);
        ptx::bar_sync(1 + buffer, kConsumers);
        await_full(gathered + tile);  // over: this warpgroup sees the entries as well
        const int thread = kFolds ? thread_now() : outer;
        const int row = thread / 32 * 16 + thread % 32 / 4;
        const float shrink[2] = {exchange()[buffer * 64 + row], exchange()[buffer * 64 + row + 8]};
        rescale(sum, shrink);
        const u32 weights = ptx::wgmma_descriptor_low(weights_of(buffer));
        add_tile(sum, buffer, 1, [weights](float (&d)[64], int k, u64 b) {
          ptx::WgmmaTransposed128::multiply(d, ptx::wgmma_descriptor(weights + 2 * k), b);
        });
        if constexpr (kFolds) {
          if (!ends_part(tile)) {
            release(buffer);
          } else {
            const int part = tile / kPartTiles;
            ptx::bar_sync(tile + 1 < tiles() ? 7 + part % 2 : 4, kConsumers);
            const int t = thread_now();
            const float* maxima = maxima_of(part) + t / 32 * 16 + t % 32 / 4;
            float highest[2] = {maxima[0], maxima[8]};
            float total[2] = {0, 0};
            fold(sum, highest, total, tile, buffer, 1);
          }
        }
      }
      gathered += tiles();
      if (kFolds) take(now(item));
      const int thread = kFolds ? thread_now() : outer;
      const int row = thread / 32 * 16 + thread % 32 / 4;
      if (direct()) {
        ptx::bar_sync(4, kConsumers);
        const float* shares = statistics() + turn_of(item, turn) % 2 * 64 + row;
        const float share[2] = {shares[0], shares[8]};
        put(sum, share, (gathered - 1) % kSm90MlaBuffers, 1);
      } else {
        finish(sum, row, 1);
      }
    }
  }

  __device__ __forceinline__ void produce() {
    int gathered = 0;
    int turn = 0;
    for (int item = first_item(); item < items(); item += stride(), ++turn) {
      take(item);
      if (turn > 0) ptx::mbarrier_wait(taken(), (turn - 1) & 1);  // the consumers know of the list before
      const int thread = static_cast<int>(ptx::pinned(threadIdx.x)) % kProducers;
      make_list<kProducers>(thread);
      if (thread == 0) counts()[turn & 1] = (kFolds ? gathered % 4 * 4096 : 0) + count;
      __syncwarp();
      if (thread % 32 == 0) ptx::mbarrier_arrive(listed());
      if (args.element == 2) {
        produce_bf16(gathered);
      } else {
        produce_quantised(gathered);
      }
      gathered += tiles();
      ptx::bar_sync(6, kProducers);  // all have read the list
    }
  }

  __device__ void run() {
    begin();
    const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
    if (group == 0) {
      ptx::setmaxnreg_inc<192>();
      consume_left();
    } else if (group == 1) {
      ptx::setmaxnreg_inc<160>();
      consume_right();
    } else {
      ptx::setmaxnreg_dec<80>();
      produce();
    }
    if (!direct()) {
      join();
    } else if (kFolds) {
      __syncthreads();
    }
    if constexpr (kFolds) {
      if (threadIdx.x == 0) Sm90MlaFold<kFolds>::give_back(*shelf_number());
    }
  }
};

}  // namespace fathom
