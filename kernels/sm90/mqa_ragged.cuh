// The indexer's scores on Hopper's tensor cores, ragged calls: see sm90/mqa.cuh.
//
// Tokens are cut into groups of neighbours that meet the same tiles of keys. Of a group, a warpgroup scores
// two sets of tokens, and multiplies with one while it adds up the other.
#pragma once
#include "layout/sm90_mqa.cuh"
#include "ptx/barrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "simt/scan.cuh"
#include "sm90/mqa_sum.cuh"

namespace fathom {

/// kHeads: the heads, rounded up to columns of a matrix instruction.
template <int kHeads, int kDim>
struct Sm90MqaRagged {
  static constexpr int kTokens = kHeads <= 64 ? 2 : 1;  // of a set, which share a matrix instruction
  static constexpr int kGroup = kSm90MqaSets * kTokens;
  static constexpr int kRows = kGroup * kHeads;
  static constexpr int kOpening = 2;  // tiles' time that it takes to begin with a group

  const Sm90MqaKernel& args;
  const MqaLogitsKernel& call;
  u32 ring, queries;  // shared addresses
  float* weights;     // [q_stages][kRows]
  int* before;        // cost of all groups before each, [groups + 1]: its tiles and kOpening
  u32 barriers;       // full[stages], empty[stages], q_full[q_stages], q_empty[q_stages]
  int begin, end;     // this block's share of the cost
  int start;          // the group that it begins with

  __device__ Sm90MqaRagged(const Sm90MqaKernel& arguments, u8* shared)
      : args(arguments), call(arguments.ragged) {
    const u32 base = ptx::shared_address(shared);
    ring = (base + 1023) & ~1023u;
    // The parts lie as in a paged call, whose scales and descriptions of tiles a ragged one does not have.
    u8* at = shared + (ring - base) + args.stages * kSm90MqaTile;
    queries = ptx::shared_address(at);
    at += args.q_stages * sm90_mqa_q_bytes(kRows) + args.stages * kMqaKeys * 4;
    weights = reinterpret_cast<float*>(at);
    at += args.q_stages * kRows * 4 + args.stages * 16;
    barriers = ptx::shared_address(at);
    before = reinterpret_cast<int*>(at + 16 * (args.stages + args.q_stages));
  }

  __device__ u32 full(int stage) const { return barriers + 8 * stage; }
  __device__ u32 empty(int stage) const { return barriers + 8 * (args.stages + stage); }
  __device__ u32 q_full(int stage) const { return barriers + 8 * (2 * args.stages + stage); }
  __device__ u32 q_empty(int stage) const { return barriers + 8 * (2 * args.stages + args.q_stages + stage); }

  struct Range {
    int first, last;
  };
  /// The keys that a row sees, [first, last); the last row's for those after it.
  __device__ Range window(long long row) const {
    row = min(row, call.q.rows - 1);
    const int first = max(static_cast<const int*>(call.first.data)[row * call.first.step], 0);
    const int last = static_cast<const int*>(call.last.data)[row * call.last.step];
    return {first, static_cast<int>(min(static_cast<long long>(last), call.keys))};
  }
  /// The tiles of a group, [first, last), or {0, 0}.
  __device__ Range tiles_of(int group) const {
    int first = 0x7fffffff;
    int last = 0;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const Range seen = window(static_cast<long long>(group) * kGroup + i);
      if (seen.first >= seen.last) continue;
      first = min(first, seen.first);
      last = max(last, seen.last);
    }
    return first < last ? Range{first / kMqaKeys, (last + kMqaKeys - 1) / kMqaKeys} : Range{0, 0};
  }
  /// What of a group's tiles is this block's, counted from the group's first.
  __device__ Range share_of(int group) const {
    const int base = before[group] + kOpening;
    return {max(begin - base, 0), min(end, before[group + 1]) - base};
  }

  /// All threads: counts the tiles and takes this block's share of them.
  __device__ void share_out() {
    constexpr int kWarps = kSm90MqaThreads / 32;
    __shared__ int sums[kWarps];
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    const int warp = thread / 32;
    if (thread == 0) {
      ptx::prefetch_tensormap(&args.keys);
      ptx::prefetch_tensormap(&args.q);
      for (int i = 0; i < args.stages; ++i) {
        ptx::mbarrier_init(full(i), 1);
        ptx::mbarrier_init(empty(i), 4 * kSm90MqaGroups);
      }
      for (int i = 0; i < args.q_stages; ++i) {
        ptx::mbarrier_init(q_full(i), 1);
        ptx::mbarrier_init(q_empty(i), 4 * kSm90MqaGroups);
      }
      ptx::fence_mbarrier_init();
    }
    int total = 0;
#pragma unroll 1
    for (int group = thread; group - thread <= args.requests; group += kSm90MqaThreads) {
      const Range range = group < args.requests ? tiles_of(group) : Range{0, 0};
      const int cost = range.first < range.last ? range.last - range.first + kOpening : 0;
      const int through = simt::warp_inclusive_sum(cost, lane);
      if (lane == 31) sums[warp] = through;
      __syncthreads();
      const int sum = lane < kWarps ? sums[lane] : 0;
      const int below = __reduce_add_sync(~0u, lane < warp ? sum : 0);
      if (group <= args.requests) before[group] = total + below + through - cost;
      total += __reduce_add_sync(~0u, sum);
      __syncthreads();
    }
    simt::deal(total, begin, end);
    start = 0;  // the last group that begins there or before
#pragma unroll 1
    for (int step = 1024; step > 0; step /= 32) {
      const int other = start + lane * step;
      start += step * (__popc(__ballot_sync(~0u, other < args.requests && before[other] <= begin)) - 1);
    }
  }

  /// Queries of a group and their weights, by a warp.
  __device__ void load_queries(int group, int stage) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const MqaQueries& q = call.q;
    const bool whole = q.heads == kHeads;  // or there are heads of zeros, whose weights are not to be read
    const long long first = static_cast<long long>(group) * kGroup;
    const int tokens = static_cast<int>(min(static_cast<long long>(kGroup), q.rows - first));
    float* to = weights + stage * kRows;
    if (!whole) {
#pragma unroll 1
      for (int i = lane; i < tokens * kHeads; i += 32) {
        const int head = i % kHeads;
        to[i] = head < q.heads ? q.weights[(first + i / kHeads) * q.weights_row + head] : 0.0f;
      }
      __syncwarp();
    }
    if (lane != 0) return;
    ptx::mbarrier_arrive_expect_tx(q_full(stage),
                                   static_cast<u32>(tokens * kHeads * (128 + (whole ? 4 : 0))));
#pragma unroll 1
    for (int i = 0; i < tokens; ++i) {
      ptx::cp_async_bulk_tensor_3d(queries + stage * sm90_mqa_q_bytes(kRows) + i * kHeads * 128, &args.q,
                                   q_full(stage), 0, 0, static_cast<int>(first) + i, ptx::kEvictNormal);
      if (whole) {
        ptx::cp_async_bulk(ptx::shared_address(to + i * kHeads), q.weights + (first + i) * q.weights_row,
                           kHeads * 4, q_full(stage));
      }
    }
  }
  /// One warp: this block's groups and tiles.
  __device__ void load() const {
    int stage = 0;
    int parity = 1;  // of a barrier that nobody has waited for yet
    int segment = 0;
#pragma unroll 1
    for (int group = start; group < args.requests && before[group] < end; ++group) {
      const Range share = share_of(group);
      if (share.first >= share.last) continue;
      const int q_stage = segment & (args.q_stages - 1);
      ptx::mbarrier_wait(q_empty(q_stage), ~(segment >> (args.q_stages - 1)) & 1);
      load_queries(group, q_stage);
      ++segment;
      const int first = tiles_of(group).first;
#pragma unroll 1
      for (int i = share.first; i < share.last; ++i) {
        ptx::mbarrier_wait(empty(stage), parity);
        if (threadIdx.x % 32 == 0) {
          ptx::mbarrier_arrive_expect_tx(full(stage), kSm90MqaTile);
          ptx::cp_async_bulk_tensor_2d(ring + stage * kSm90MqaTile, &args.keys, full(stage), 0,
                                       (first + i) * kMqaKeys, ptx::kEvictNormal);
        }
        __syncwarp();
        if (++stage == args.stages) {
          stage = 0;
          parity ^= 1;
        }
      }
    }
  }

  /// The last warps fill what no tile covers.
  __device__ void fill() const {
    constexpr int kColumns = 1024;
    constexpr unsigned kWarps = 3;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const unsigned chunks = static_cast<unsigned>((call.keys + kColumns - 1) / kColumns);
    const unsigned units = static_cast<unsigned>(args.requests) * chunks;
#pragma unroll 1
    for (unsigned unit = blockIdx.x * kWarps + kSm90MqaThreads / 32 - 1 - threadIdx.x / 32; unit < units;
         unit += gridDim.x * kWarps) {
      const int group = static_cast<int>(unit / chunks);
      const int from = static_cast<int>(unit % chunks) * kColumns;
      const int to = static_cast<int>(min(static_cast<long long>(from) + kColumns, call.keys));
      const Range tiles = tiles_of(group);
#pragma unroll 1
      for (int token = 0; token < kGroup; ++token) {
        const long long row = static_cast<long long>(group) * kGroup + token;
        if (row >= call.q.rows) break;
        float* out = call.logits + row * call.logits_row;
#pragma unroll 1
        for (int j = from + lane; j < min(to, tiles.first * kMqaKeys); j += 32)
          out[j] = __uint_as_float(0xff800000u);
#pragma unroll 1
        for (int j = max(from, tiles.last * kMqaKeys) + lane; j < to; j += 32)
          out[j] = __uint_as_float(0xff800000u);
      }
    }
  }

  using Products = float[kTokens * kHeads / 2];

  /// Keeps the compiler from moving sums across a wait.
  static __device__ __forceinline__ void keep_all(float (&sum)[kTokens][2]) {
#pragma unroll
    for (int i = 0; i < 2 * kTokens; ++i) ptx::keep(sum[i / 2][i % 2]);
  }

  /// A warpgroup scores its two sets of each group: while it adds up the products of one, those of the other
  /// or of the next tile are under way. A round of the loop is two tiles, and at its end nothing is under
  /// way: otherwise the assembler may wait for every instruction (C7514), and where it does not, it is slower
  /// all the same.
  __device__ void score(int warpgroup) const {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 4;
    const int token = warpgroup * 2 * kTokens + (kTokens == 2 ? lane : lane / 2);
    const int key = thread / 32 * 16 + thread % 32 / 4 + (kTokens == 2 ? 0 : 8 * (lane % 2));
    const u32 ring_low = ptx::wgmma_descriptor_low(ring);
    int stage = 0;
    int parity = 0;
    int segment = 0;
#pragma unroll 1
    for (int group = start; group < args.requests && before[group] < end; ++group) {
      const Range share = share_of(group);
      if (share.first >= share.last) continue;
      const int q_stage = segment & (args.q_stages - 1);
      const long long row = static_cast<long long>(group) * kGroup + token;
      const Range seen = window(row);
      const int limit = row < call.q.rows ? static_cast<int>(call.keys) : 0;
      const unsigned count = static_cast<unsigned>(max(seen.last - seen.first, 0));
      int j = (tiles_of(group).first + share.first) * kMqaKeys + key;
      float* out = call.logits + row * call.logits_row + j;
      const float* scales = call.k_scale + j;
      ptx::mbarrier_wait(q_full(q_stage), segment >> (args.q_stages - 1) & 1);
      ++segment;
      float weight[2][kTokens][kHeads / 4];
#pragma unroll
      for (int i = 0; i < 2 * kTokens; ++i) {
        sm90_mqa_weights<kHeads>(weights + q_stage * kRows + (warpgroup * 2 * kTokens + i) * kHeads,
                                 weight[i / kTokens][i % kTokens]);
      }
      // Lane 0 speaks for all, so that the compiler uses uniform registers.
      const u32 set = __shfl_sync(~0u,
                                  ptx::wgmma_descriptor_low(queries + q_stage * sm90_mqa_q_bytes(kRows)) +
                                      warpgroup * 2 * kTokens * kHeads * 8,
                                  0);
      Products d[2];
      float sum[2][kTokens][2];
      ptx::mbarrier_wait(full(stage), parity);
      const u32 other = set + kTokens * kHeads * 8;
      float scale[kTokens];
      auto load_scales = [&] {
#pragma unroll
        for (int i = 0; i < kTokens; ++i) scale[i] = j + 8 * i < limit ? scales[8 * i] : 0;
      };
      auto keys = [&] { return ring_low + stage * (kSm90MqaTile / 16); };
      auto next = [&] {
        if (++stage == args.stages) {
          stage = 0;
          parity ^= 1;
        }
      };
      auto give_back = [&](int done) {
        __syncwarp();
        if (thread % 32 == 0) ptx::mbarrier_arrive(empty(done));
      };
      auto finish = [&] {
        float score[kTokens];
        sm90_mqa_exchange(sum, score);
#pragma unroll
        for (int i = 0; i < kTokens; ++i) {
          if (j + 8 * i >= limit) continue;
          out[8 * i] = static_cast<unsigned>(j + 8 * i - seen.first) < count ? score[i] * scale[i]
                                                                             : __uint_as_float(0xff800000u);
        }
        j += kMqaKeys;
        out += kMqaKeys;
        scales += kMqaKeys;
      };
      int left = share.last - share.first;
#pragma unroll 1
      for (; left > 1; left -= 2) {
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[0], keys(), set);
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[1], keys(), other);
        load_scales();
        sm90_mqa_wait<1>(d[0]);
        sm90_mqa_sum<kTokens, kHeads>(weight[0], d[0], sum[0]);
        keep_all(sum[0]);
        int done = stage;
        next();
        ptx::mbarrier_wait(full(stage), parity);
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[0], keys(), set);
        sm90_mqa_wait<1>(d[1]);
        sm90_mqa_sum<kTokens, kHeads>(weight[1], d[1], sum[1]);
        give_back(done);
        finish();
        load_scales();
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[1], keys(), other);
        sm90_mqa_wait<1>(d[0]);
        sm90_mqa_sum<kTokens, kHeads>(weight[0], d[0], sum[0]);
        keep_all(sum[0]);
        done = stage;
        next();
        if (left > 2) ptx::mbarrier_wait(full(stage), parity);
        sm90_mqa_wait<0>(d[1]);
        give_back(done);
        sm90_mqa_sum<kTokens, kHeads>(weight[1], d[1], sum[1]);
        finish();
      }
      if (left > 0) {
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[0], keys(), set);
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[1], keys(), other);
        load_scales();
        sm90_mqa_wait<0>(d[0]);
        sm90_mqa_wait<0>(d[1]);
        sm90_mqa_sum<kTokens, kHeads>(weight[0], d[0], sum[0]);
        keep_all(sum[0]);
        give_back(stage);
        next();
        sm90_mqa_sum<kTokens, kHeads>(weight[1], d[1], sum[1]);
        finish();
      }
      __syncwarp();
      if (thread % 32 == 0) ptx::mbarrier_arrive(q_empty(q_stage));
    }
  }

  __device__ void run() {
    share_out();
    const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0);
    if (warpgroup < kSm90MqaGroups) {
      ptx::setmaxnreg_inc<sm90_mqa_scorer_registers(kTokens * kHeads)>();
      score(warpgroup);
      return;
    }
    ptx::setmaxnreg_dec<sm90_mqa_loader_registers(kTokens * kHeads)>();
    if (threadIdx.x / 32 % 4 == 0) {
      load();
    } else {
      fill();
    }
  }
};

template <int kHeads, int kDim>
__device__ void sm90_mqa_ragged(const Sm90MqaKernel& args) {
  extern __shared__ u8 shared[];
  Sm90MqaRagged<kHeads, kDim>(args, shared).run();
}

}  // namespace fathom
