// The indexer's scores on Hopper, paged calls of 3 to 8 tokens a request: scoring warpgroups.
#pragma once
#include "sm90/mqa_block.cuh"
#include "sm90/mqa_sum.cuh"

namespace fathom {

/// A warpgroup scores four tokens of a request, in two sets of two: up to four tokens, warpgroups take tiles
/// by turns, otherwise each has tokens of its own. While it adds up a set's products, the other's are under
/// way, or the next tile's.
template <int kHeads, int kDim, int kPage>
struct Sm90MqaDrafts {
  using Block = Sm90MqaBlock<kHeads, kDim, kPage>;
  static constexpr int kTokens = 2;  // of a set
  static constexpr int kSets = 2;    // of a warpgroup
  using Products = float[kTokens * kHeads / 2];
  using Weights = float[kTokens][kHeads / 4];
  using Sums = float[kSets][kTokens][2];
  const Block& block;

  /// Sums that the compiler does not move across a later wait.
  static __device__ __forceinline__ void sum_up(const Weights& weights, const Products& d,
                                                float (&sum)[kTokens][2]) {
    sm90_mqa_sum<kTokens, kHeads>(weights, d, sum);
#pragma unroll
    for (int i = 0; i < 2 * kTokens; ++i) ptx::keep(sum[i / 2][i % 2]);
  }

  /// A thread's token, and its first key in the tile that it stores next.
  struct Place {
    float* out;         // the token's logits
    int key, columns;   // no columns if there is no such token
    int last;           // keys that the token sees
    int stage, parity;  // of the tile that is multiplied next
  };
  /// What it knows of a tile that has been multiplied.
  struct Met {
    float scale[2];
    int stage;
    bool there;
  };
  /// Waits for a tile.
  __device__ __forceinline__ u32 next_tile(const Place& place) const {
    ptx::mbarrier_wait(block.full(place.stage), place.parity);
    return block.ring_low + place.stage * (kSm90MqaTile / 16);
  }
  __device__ __forceinline__ Met leave(Place& place, int entry, int turns) const {
    Met met;
    met.stage = place.stage;
    met.there = block.tiles[place.stage].there >> entry / Block::kPartKeys & 1;
#pragma unroll
    for (int h = 0; h < 2; ++h) met.scale[h] = block.scales[place.stage * kMqaKeys + entry + 8 * h];
    place.stage += turns;
    if (place.stage >= block.args.stages) {
      place.stage -= block.args.stages;
      place.parity ^= 1;
    }
    return met;
  }
  /// All products with a tile are there: it goes back, and its scores are stored.
  __device__ __forceinline__ void finish(Place& place, const Met& met, const Weights& weights,
                                         const Products& d, Sums& sum, int turns) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(block.empty(met.stage));
    sm90_mqa_sum<kTokens, kHeads>(weights, d, sum[1]);
    float score[2];
    sm90_mqa_exchange<kTokens>(sum, score);  // lane i has those of token i
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int key = place.key + 8 * h;
      if (key >= place.columns) continue;
      place.out[key] = met.there && key < place.last ? score[h] * met.scale[h] : __uint_as_float(0xff800000u);
    }
    place.key += turns * kMqaKeys;
  }

  __device__ void consume(int group) const {
    const int next_n = block.args.next_n;
    const int turns = next_n <= 4 ? 2 : 1;
    const int first_token = next_n <= 4 ? 0 : 4 * group;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int entry = thread / 32 * 16 + thread % 32 / 4;  // of this thread's keys in a tile, and 8 behind
    const int token = first_token + thread % 4;
    const int q_stages = block.args.q_stages;
    Place place{};
    place.stage = turns == 2 ? group : 0;
    int request = block.request_of(block.begin);
    int turn = place.stage;  // tiles until this warpgroup's next
#pragma unroll 1
    for (int at = block.begin, segment = 0; at < block.end; ++segment) {
#pragma unroll 1
      while (block.before[request + 1] <= at) ++request;
      const int start = block.before[request];
      const int count = min(block.end, block.before[request + 1]) - at;
      const int tile = at - start + turn;
      int left = turns == 2 ? (count - turn + 1) >> 1 : count;  // of this warpgroup
      at += count;
      if (turns == 2) turn = (turn + count) & 1;
      if (left <= 0) continue;
      // The tile first: when it is there, the request before the last is done with, and so the barrier of the
      // queries cannot be a phase behind, of which this warpgroup may have seen nothing.
      u32 keys = next_tile(place);
      const int q_stage = segment & (q_stages - 1);
      ptx::mbarrier_wait(block.q_full(q_stage), segment >> (q_stages - 1) & 1);
      place.key = tile * kMqaKeys + entry;
      place.columns = place.last = 0;
      if (token < next_n) {
        place.columns = static_cast<int>(block.columns());
        place.last = block.seen(request, token);
        place.out = block.logits(static_cast<long long>(request) * next_n + token);
      }
      Weights weights[kSets];
      // Lane 0 speaks for all, so that the compiler uses uniform registers.
      u32 set[kSets];
#pragma unroll
      for (int i = 0; i < kSets; ++i) {
        // A set beyond the last token's does what the first does, for nobody.
        const int from = first_token + 2 * i < next_n ? first_token + 2 * i : first_token;
        set[i] = __shfl_sync(
            ~0u, block.queries_low + q_stage * (sm90_mqa_q_bytes(block.rows) / 16) + from * kHeads * 8, 0);
#pragma unroll
        for (int t = 0; t < kTokens; ++t)
          sm90_mqa_weights<kHeads>(block.weights + q_stage * block.rows + (from + t) * kHeads, weights[i][t]);
      }
      Products d[kSets];
      Sums sum;
      Met met;
#pragma unroll 1
      for (;; left -= 2) {
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[0], keys, set[0]);
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[1], keys, set[1]);
        met = leave(place, entry, turns);
        sm90_mqa_wait<1>(d[0]);
        sum_up(weights[0], d[0], sum[0]);
        if (left == 1) {
          sm90_mqa_wait<0>(d[1]);
          break;
        }
        keys = next_tile(place);
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[0], keys, set[0]);
        sm90_mqa_wait<1>(d[1]);
        finish(place, met, weights[1], d[1], sum, turns);
        sm90_mqa_multiply<kTokens * kHeads, kDim>(d[1], keys, set[1]);
        met = leave(place, entry, turns);
        sm90_mqa_wait<1>(d[0]);
        sum_up(weights[0], d[0], sum[0]);
        if (left > 2) keys = next_tile(place);
        sm90_mqa_wait<0>(d[1]);
        if (left == 2) break;
        finish(place, met, weights[1], d[1], sum, turns);
      }
      finish(place, met, weights[1], d[1], sum, turns);
    }
  }
};

}  // namespace fathom
