// The indexer's scores on Hopper, scoring warpgroups: products of tiles of keys with tokens, and sums over
// their heads.
#pragma once
#include "sm90/mqa_block.cuh"
#include "sm90/mqa_sum.cuh"

namespace fathom {

template <int kHeads, int kDim, int kPage, int kTokens>
struct Sm90MqaScorer {
  using Block = Sm90MqaBlock<kHeads, kDim, kPage>;
  const Block& block;

  /// A warpgroup multiplies two sets of kTokens tokens with a tile each: while it adds up one set's products,
  /// the other's and those of other warpgroups are under way. A set stays with its tokens of a request, so
  /// that their weights stay in registers, where there are not more than sets for them; sets that have the
  /// same tokens take tiles by turns. Of a set's products a thread has those of every fourth pair of heads,
  /// and of four lanes, lane i stores the scores of token i / 2 with key i % 2.
  struct Set {
    float weights[kTokens][kHeads / 4];
    float* out;   // of this thread's key in the first tile, or null
    int seen;     // keys that the row sees
    int segment;  // whose weights and keys these are
    int token, tiles;  // the first token, and tiles that are left
    int stage, parity;
  };
  __device__ int key_of_tile() const {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    return thread / 32 * 16 + thread % 32 / 4 + 8 * (thread % 2);
  }

  __device__ void take_tokens(Set& set) const {
    const int lane = static_cast<int>(threadIdx.x) % 4;
    const int q_stage = set.segment & (block.args.q_stages - 1);
    ptx::mbarrier_wait(block.q_full(q_stage), set.segment >> (block.args.q_stages - 1) & 1);
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
      sm90_mqa_weights<kHeads>(block.weights + q_stage * block.rows + (set.token + t) * kHeads, set.weights[t]);
    const int request = block.tiles[set.stage].request;
    const int token = set.token + lane / 2;
    set.out = nullptr;
    if (lane / 2 >= kTokens || token >= block.args.next_n) return;
    set.out = block.logits(static_cast<long long>(request) * block.args.next_n + token) + key_of_tile();
    set.seen = block.seen(request, token);
  }

  /// Begins to multiply with the next tile.
  __device__ __forceinline__ void multiply(Set& set, float (&d)[kTokens * kHeads / 2]) const {
    const int stage = set.stage;
    ptx::mbarrier_wait(block.full(stage), set.parity);
    // Lane 0 speaks for all, so that the compiler uses uniform registers.
    const int segment = __shfl_sync(~0u, block.tiles[stage].segment, 0);
    if (segment != set.segment || block.args.next_n > kSm90MqaSets * kTokens) {
      set.segment = segment;
      take_tokens(set);
    }
    const u32 a = block.ring_low + stage * (kSm90MqaTile / 16);
    const u32 b = block.queries_low +
                  (segment & (block.args.q_stages - 1)) * (sm90_mqa_q_bytes(block.rows) / 16) +
                  set.token * kHeads * 8;
    sm90_mqa_multiply<kTokens * kHeads, kDim>(d, a, b);
  }
  /// The set's tokens have met the tile: others of it are next, or the tile goes back and the set's next one
  /// comes.
  __device__ __forceinline__ void advance(Set& set) const {
    constexpr int kStep = kSm90MqaSets * kTokens;  // a power of two
    const int base = set.token & ~(kStep - 1);
    if (base + kStep < block.args.next_n) {
      set.token += kStep;
      return;
    }
    set.token -= base;
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(block.empty(set.stage));
    const int turns = Block::turns_of(block.template tile_mates<kTokens>());
    set.tiles -= turns;
    set.stage += turns;
    if (set.stage >= block.args.stages) {
      set.stage -= block.args.stages;
      set.parity ^= 1;
    }
  }
  /// Gives the tile back, adds up and stores.
  __device__ __forceinline__ void add_up(Set& set, const float (&d)[kTokens * kHeads / 2]) const {
    const int key = key_of_tile();
    const int first_key = block.tiles[set.stage].tile * kMqaKeys;
    const float scale = block.scales[set.stage * kMqaKeys + key];
    const bool there = block.tiles[set.stage].there >> key / Block::kPartKeys & 1;
    advance(set);
    const int lane = static_cast<int>(threadIdx.x % 4);
    float sum[kTokens][2];
    sm90_mqa_sum<kTokens, kHeads>(set.weights, d, sum);
    // Four lanes have parts of every sum. Each sends those that are not its own.
    float of_key[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (kTokens == 2) {
        const float other = __shfl_xor_sync(~0u, lane / 2 ? sum[0][h] : sum[1][h], 2);
        of_key[h] = (lane / 2 ? sum[1][h] : sum[0][h]) + other;
      } else {
        of_key[h] = sum[0][h] + __shfl_xor_sync(~0u, sum[0][h], 2);
      }
    }
    const float other = __shfl_xor_sync(~0u, lane % 2 ? of_key[0] : of_key[1], 1);
    const float total = (lane % 2 ? of_key[1] : of_key[0]) + other;
    const int j = first_key + key;
    if (set.out != nullptr && j < block.columns()) {
      const bool seen = there && static_cast<u32>(j) < static_cast<u32>(set.seen);
      set.out[first_key] = seen ? total * scale : __uint_as_float(0xff800000u);
    }
  }

  __device__ void consume(int group) const {
    Set set[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int number = 2 * group + i;
      const int mates = block.template tile_mates<kTokens>();
      set[i].token = (number & (mates - 1)) * kTokens;
      set[i].stage = number * Block::turns_of(mates) / kSm90MqaSets;
      set[i].segment = -1;
      if (set[i].token < block.args.next_n) set[i].tiles = block.end - block.begin - set[i].stage;
    }
    float d[2][kTokens * kHeads / 2];
    while (set[0].tiles > 0) {
      if (set[0].token >= block.args.next_n) {  // the last round has no tokens for this group
        advance(set[0]);
        if (set[1].tiles > 0) advance(set[1]);
        continue;
      }
      if (set[1].tiles > 0 && set[1].token < block.args.next_n) {
        multiply(set[0], d[0]);
        multiply(set[1], d[1]);
        sm90_mqa_wait<1>(d[0]);
        add_up(set[0], d[0]);
        sm90_mqa_wait<0>(d[1]);
        add_up(set[1], d[1]);
      } else {
        multiply(set[0], d[0]);
        sm90_mqa_wait<0>(d[0]);
        add_up(set[0], d[0]);
        if (set[1].tiles > 0) advance(set[1]);
      }
    }
  }
};

}  // namespace fathom
