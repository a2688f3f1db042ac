// Latent attention of up to 16 heads of a token over a quantised cache: codes are multiplied as they are. The heads are
// the rows of the warps' products, entries, then columns, their columns, and codes become f16, which holds them all, in
// registers.
//
// Entries come into shared memory by bulk copies, 64 of them a tile. Two teams of eight warps take every second tile
// each, with a maximum, a total and sums of their own: two parts of the result, which are joined as those of other
// blocks are. Of a tile's scores a warp has those of 32 entries from 128 columns and of eight from the rotated ones;
// then two heads' softmax; then 64 columns of the weighted sums.
//
// Queries are times a power of two for every head's 128 columns, so that f16 holds them. The scale of an entry's 128
// columns is in its weight. Weights are relative to the highest of exp(score) times the entry's largest scale, which
// becomes 2^14.
//
// Lanes have entries that lie in different banks. Entry 16 r + (i ^ r % 2) is number r of four at place i of 16.
#pragma once
#include "ptx/mma.cuh"
#include "sm90/mla_block.cuh"

namespace fathom {

struct Sm90MlaCodes : Sm90MlaBlock<16, true> {
  using Block = Sm90MlaBlock<16, true>;
  using Block::Block;
  static constexpr int kEntry = kSm90MlaCodesEntry;
  static constexpr int kBuffers = kSm90MlaCodesBuffers;
  /// Weights of a tile are at most 2^kLevel when they set a new reference, which is kept until one is above 2^kMost.
  static constexpr float kLevel = 10;
  static constexpr float kMost = 15;
  static constexpr int kHeadScores = 5 * 256;  // bytes: from every 128 columns, from the rotated ones

  __device__ u32 tile_at(u32 buffer) const { return entries() + buffer * kSm90MlaCodesTile; }
  __device__ u32 rotated() const { return tile_at(kBuffers); }  // of queries: [4][lanes] operands of 16 bytes
  __device__ u32 full(u32 buffer) const { return queries + kBarriersAt + 128 + 8 * buffer; }
  /// Of a buffer the entries whose places are below 8, or the others: an even warp fetches the former, an odd one the latter.
  __device__ u32 empty(u32 buffer, u32 half) const { return full(kBuffers * (1 + half) + buffer); }
  __device__ u32 shrinks(u32 team) const { return queries + kExchangeAt + 64 * team; }  // [heads]
  __device__ u32 inverses() const { return shrinks(2); }                    // [heads], of the queries' powers of two
  __device__ u32 levels(u32 team) const { return shrinks(4 + 4 * team); }               // [places][4], of a tile's scales

  static __device__ __forceinline__ u32 entry(u32 r, u32 i) { return 16 * r + (i ^ (r & 1)); }
  /// Bytes to 16 bytes at place i of a head's scores or weights: neighbouring heads' lie in different banks.
  static __device__ __forceinline__ u32 spread(u32 head, u32 i) { return (i ^ (head % 2 * 4 + head / 2 % 4)) * 16; }

  /// Over the scores of heads `pair` and 8 further their weights of the four entries at place i, an operand of a product.
  static __device__ __forceinline__ u32 weights_at(u32 pair, u32 group, u32 i) {
    return pair * kHeadScores + 256 * group + (i ^ pair % 2) * 16;
  }

  /// A warp of a team: its eight entries of a tile. Beyond the end they are the first one, without weight.
  __device__ __forceinline__ void fetch(u32 tile, u32 warp, u32 lane) const {
    if (tile >= static_cast<u32>(tiles())) return;
    const u32 buffer = tile % kBuffers;
    if (lane == 0) ptx::mbarrier_arrive_expect_tx(full(buffer), 8 * kEntry);
    __syncwarp();
    const u32 row = 8 * warp + lane;
    if (lane < 8) ptx::cp_async_bulk(tile_at(buffer) + row * kEntry, entry_at(static_cast<int>(tile), static_cast<int>(row)), kEntry, full(buffer));
  }

  /// The same when the team has read the entries that tile `before` has in their place. Then its weights have been read, too.
  __device__ __forceinline__ void refill(u32 before, u32 warp, u32 lane) const {
    ptx::mbarrier_wait(empty(before % kBuffers, warp % 2), before / kBuffers & 1);
    fetch(before + kBuffers, warp, lane);
  }

  /// A warp has one head's queries: a lane of every 256 columns eight, at last of 64.
  struct Row {
    uint4 eight[3];  // bf16
  };
  __device__ __forceinline__ void load_row(Row& row, int head, u32 lane) const {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const bool there = head < args.heads && 32 * i + lane < 72;
      const i64 from = i64{token} * args.q.row + head * args.q.head + (32 * i + lane) * 8;
      row.eight[i] = {0, 0, 0, 0};
      if (!there) continue;
      if (args.q.bf16 && kernel.aligned_q) {
        row.eight[i] = ptx::ld_global_early(static_cast<const u16*>(args.q.data) + from);
        continue;
      }
      float x[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] = simt::load_element(args.q.data, args.q.bf16, from + j);
      row.eight[i] = {ptx::cvt_bf16x2(x[0], x[1]), ptx::cvt_bf16x2(x[2], x[3]), ptx::cvt_bf16x2(x[4], x[5]),
                      ptx::cvt_bf16x2(x[6], x[7])};
    }
  }
  /// The row times a power of two, which makes its largest 2^14 or more, to where products take it from.
  __device__ __forceinline__ void store_row(const Row& row, u32 head, u32 lane) const {
    u32 words[3][4];
    u32 most = 0;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      words[i][0] = row.eight[i].x, words[i][1] = row.eight[i].y, words[i][2] = row.eight[i].z, words[i][3] = row.eight[i].w;
#pragma unroll
      for (int j = 0; j < 4; ++j) most = max(most, max(words[i][j] << 16 & 0x7fffffffu, words[i][j] & 0x7fff0000u));
    }
    const u32 exponent = max(__reduce_max_sync(~0u, most) >> 23, 16u);
    const float power = __uint_as_float((268 - exponent) << 23);
    if (lane == 0) ptx::st_shared(inverses() + 4 * head, __uint_as_float((exponent - 14) << 23));
#pragma unroll
    for (int i = 0; i < 3; ++i) {
#pragma unroll
      for (u32 j = 0; j < 4; ++j) {
        const float low = __uint_as_float(words[i][j] << 16) * power;
        const float high = __uint_as_float(words[i][j] & 0xffff0000u) * power;
        const u32 operand = j % 2 * 8 + head / 8 * 4;
        if (i < 2) {
          const u32 chunk = 32 * i + lane;
          const u32 step = chunk / 8 * 4 + chunk % 2 * 2 + j / 2;
          ptx::st_shared(operand_at(step, head % 8 * 4 + chunk % 8 / 2) + operand, __uint_as_float(ptx::cvt_f16x2(low, high)));
        } else if (lane < 8) {
          const u32 to = rotated() + (lane / 4 * 2 + j / 2) * 512 + (head % 8 * 4 + lane % 4) * 16;
          ptx::st_shared(to + operand, __uint_as_float(ptx::cvt_bf16x2(low, high)));
        }
      }
    }
  }
  /// The operand of a lane: of heads lane / 4 and 8 further columns 128 * (step / 8) + 64 * (step / 4 % 2) +
  /// 16 * (lane % 4) + 4 * (step % 4) and three more.
  __device__ __forceinline__ u32 operand_at(u32 step, u32 lane) const {
    return queries + kSm90MlaCodesScores + 512 * step + (lane ^ step % 4 / 2 * 4) * 16;
  }

  /// What a warp has of the queries: 128 columns.
  struct Queries {
    u32 operands[8][4];
  };

  /// Of a warp of a team the scores of 32 entries from its 128 columns, and of 8 entries from the rotated ones.
  __device__ __forceinline__ void multiply_queries(const Queries& q, u32 tile_number, u32 scores, u32 levels, u32 warp, u32 lane) const {
    const u32 tile = tile_at(tile_number % kBuffers);
    const u32 group = warp % 4;
    const u32 c = lane % 4;
    const u32 head = lane / 4;
    const u32 place_of = lane / 8 + lane / 4 % 2 * 4;  // of this lane's column, of eight
    const u32 i0 = warp / 4 * 8;
    const u32 codes = tile + 128 * group + 16 * c;
    const u32 even = codes + entry(0, i0 + place_of) * kEntry;
    const u32 odd = codes + (entry(1, i0 + place_of) - 16) * kEntry;
    float sum[4][4] = {};
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      u32 words[4][4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int4 v = ptx::ld_shared_int4((r % 2 == 0 ? even : odd) + 16 * r * kEntry + 64 * x);
        words[r][0] = v.x, words[r][1] = v.y, words[r][2] = v.z, words[r][3] = v.w;
      }
#pragma unroll
      for (int v = 0; v < 4; ++v) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          u32 b0, b1;
          ptx::cvt_f16x4(words[r][v], b0, b1);
          ptx::mma_f16(sum[r], q.operands[4 * x + v], b0, b1);
        }
      }
      if (x == 0 && warp % 2 == 1 && tile_number >= 2) refill(tile_number - 2, warp, lane);
    }
    const u32 j = i0 + group;  // places j and j + 4
    const u32 i = j + lane / 4 % 2 * 4;
    const u32 keys = tile + entry(lane / 8, i) * kEntry + 528 + 16 * c;
    if (c == 0) {
      const float4 s = ptx::ld_shared_4(keys - 16);
      const float largest = fmaxf(fmaxf(fabsf(s.x), fabsf(s.y)), fmaxf(fabsf(s.z), fabsf(s.w)));
      ptx::st_shared(levels + 16 * i + lane / 8 * 4, ptx::log2(fmaxf(largest, 0x1p-60f)) - kLevel);
    }
    float last[4] = {};
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      const int4 b = ptx::ld_shared_int4(keys + 64 * x);
      const int4 a = ptx::ld_shared_int4(rotated() + 1024 * x + 16 * lane);
      const int4 d = ptx::ld_shared_int4(rotated() + 1024 * x + 512 + 16 * lane);
      ptx::mma_bf16(last, {u32(a.x), u32(a.y), u32(a.z), u32(a.w)}, b.x, b.y);
      ptx::mma_bf16(last, {u32(d.x), u32(d.y), u32(d.z), u32(d.w)}, b.z, b.w);
    }
    const u32 at = scores + head * kHeadScores;
    const u32 codes_to = 256 * group + spread(head, i0 + c);
    const u32 last_to = 256 * 4 + spread(head, j) + 4 * c;
#pragma unroll
    for (int k = 0; k < 4; ++k) {  // heads 8 further, places 4 further
      const u32 to = at + k / 2 * 8 * kHeadScores;
      ptx::st_shared_4(to + (codes_to ^ k % 2 * 64), float4{sum[0][k], sum[1][k], sum[2][k], sum[3][k]});
      ptx::st_shared(to + (last_to ^ k % 2 * 64), last[k]);
    }
  }

  /// Of a warp of a team two heads' weights of a tile. A lane has four entries of a head.
  struct Softmax {
    float factor;  // of scores
    float highest = __uint_as_float(0xff800000u);
    float total = 0;
  };
  __device__ __forceinline__ void weigh(Softmax& s, u32 tile, u32 scores, u32 levels, u32 shrinks, int left, u32 head, u32 i, int barrier) const {
    float4 scales[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) scales[r] = ptx::ld_shared_4(tile + entry(r, i) * kEntry + 512);
    ptx::bar_sync(barrier, 256);
    const u32 at = scores + head * kHeadScores + spread(head, i);
    const float4 last = ptx::ld_shared_4(at + 256 * 4);
    float score[4] = {last.x, last.y, last.z, last.w};
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      const float4 v = ptx::ld_shared_4(at + 256 * g);
      const float part[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int r = 0; r < 4; ++r) score[r] = __fmaf_rn(part[r], scale_of(scales[r], g), score[r]);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) score[r] *= s.factor;
    if (left < kSm90MlaEntries) {
#pragma unroll
      for (int r = 0; r < 4; ++r) score[r] = static_cast<int>(entry(r, i)) < left ? score[r] : __uint_as_float(0xff800000u);
    }
    const float4 level = ptx::ld_shared_4(levels + 16 * i);
    float most = fmaxf(fmaxf(score[0] + level.x, score[1] + level.y), fmaxf(score[2] + level.z, score[3] + level.w));
#pragma unroll
    for (int lanes = 1; lanes < 16; lanes *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, lanes));
    most = most > s.highest + (kMost - kLevel) ? most : s.highest;
    const float shrink = ptx::exp2(s.highest - most);  // 0 at first
    s.highest = most;
    if (i == 0) ptx::st_shared(shrinks + 4 * head, shrink);
    float weight[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) weight[r] = ptx::exp2(score[r] - most);
    s.total = s.total * shrink + ((weight[0] + weight[1]) + (weight[2] + weight[3]));
    __syncwarp();  // scores have been read
    const u32 to = scores + weights_at(head % 8, 0, i) + head / 8 * 4;
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      float own[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) own[r] = weight[r] * scale_of(scales[r], g);
      ptx::st_shared(to + 256 * g, __uint_as_float(ptx::cvt_f16x2(own[0], own[1])));
      ptx::st_shared(to + 256 * g + 8, __uint_as_float(ptx::cvt_f16x2(own[2], own[3])));
    }
  }
  static __device__ __forceinline__ float scale_of(const float4& scales, int group) {
    return group == 0 ? scales.x : group == 1 ? scales.y : group == 2 ? scales.z : scales.w;
  }

  /// Of a warp of a team 64 columns of the sums: column 64 * warp + 16 * chunk + 4 * (lane % 4) + 2 * (i % 2) + odd of head
  /// lane / 4 + i / 2 * 8 is sum[chunk][odd][i].
  __device__ __forceinline__ void add_entries(float (&sum)[4][2][4], u32 tile_number, u32 scores, u32 shrinks, u32 warp, u32 lane) const {
    const u32 c = lane % 4;
    const u32 head = lane / 4;
    u32 weights[4][4];  // [step][operand]
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int4 v = ptx::ld_shared_int4(scores + weights_at(head, warp / 2, step / 2 * 8 + 2 * c + step % 2));
      weights[step][0] = v.x, weights[step][1] = v.y, weights[step][2] = v.z, weights[step][3] = v.w;
    }
    const float shrink[2] = {ptx::ld_shared(shrinks + 4 * head), ptx::ld_shared(shrinks + 4 * head + 32)};
    if (__any_sync(~0u, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
      for (int i = 0; i < 32; ++i) sum[i / 8][i / 4 % 2][i % 4] *= shrink[i / 2 % 2];
    }
    // Row lane % 8 of matrix lane / 8: of the first or last 8 of k, and of one of two chunks of 16 columns.
    const u32 q = lane % 2;
    const u32 first = 32 * (lane / 8 % 2) + 16 * q + (lane % 8 & ~1);
    const u32 chunk = tile_at(tile_number % kBuffers) + 64 * warp + lane / 16 * 16;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int u = step % 2;
      const u32 row = chunk + (first + (u ^ q)) * kEntry + step / 2 * (8 * kEntry);
#pragma unroll
      for (int two = 0; two < 2; ++two) {
        u32 v[4];
        ptx::ldmatrix_x4_transposed(v, row + 32 * two);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          u32 b[2][2];  // [odd][half of k]
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            ptx::cvt_f16x4(__byte_perm(v[2 * i + half], 0, 0x3120), b[0][half], b[1][half]);
          }
          ptx::mma_f16(sum[2 * two + i][0], weights[step], b[0][0], b[0][1]);
          ptx::mma_f16(sum[2 * two + i][1], weights[step], b[1][0], b[1][1]);
        }
      }
      if (step % 2 == 1) {
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(empty(tile_number % kBuffers, step / 2));
      }
    }
  }

  __device__ __forceinline__ void consume(const Row& row, u32 all, u32 lane) const {
    const u32 team = all / 8;
    const u32 warp = all % 8;
    const u32 scores = queries + team * kSm90MlaCodesScores;
    fetch(team, warp, lane);
    fetch(team + 2, warp, lane);
    store_row(row, all, lane);
    ptx::bar_sync(5, kThreads);
    Queries q;
#pragma unroll
    for (u32 step = 0; step < 8; ++step) {
      const int4 v = ptx::ld_shared_int4(operand_at(8 * (warp % 4) + step, lane));
      q.operands[step][0] = v.x, q.operands[step][1] = v.y, q.operands[step][2] = v.z, q.operands[step][3] = v.w;
    }
    Softmax softmax;
    softmax.factor = args.softmax_scale * kLog2E * ptx::ld_shared(inverses() + 4 * (warp + lane / 16 * 8));
    ptx::bar_sync(5, kThreads);
    const int barrier = 1 + static_cast<int>(team);
    float sum[4][2][4] = {};
    for (u32 tile = team; tile < static_cast<u32>(tiles()); tile += 2) {
      const u32 lane = ptx::pinned(threadIdx.x) % 32;  // addresses are not kept in registers
      const u32 buffer = tile % kBuffers;
      const u32 at = tile_at(buffer);
      ptx::mbarrier_wait(full(buffer), tile / kBuffers & 1);
      multiply_queries(q, tile, scores, levels(team), warp, lane);
      weigh(softmax, at, scores, levels(team), shrinks(team), count - static_cast<int>(tile) * kSm90MlaEntries, warp + lane / 16 * 8, lane % 16, barrier);
      ptx::bar_sync(barrier, 256);
      add_entries(sum, tile, scores, shrinks(team), warp, lane);
      if (warp % 2 == 0) refill(tile, warp, lane);
    }
#pragma unroll
    for (int lanes = 1; lanes < 16; lanes *= 2) softmax.total += __shfl_xor_sync(~0u, softmax.total, lanes);
    if (lane % 16 == 0) set_statistics(team, warp + lane / 16 * 8, softmax.highest, softmax.total);
    ptx::bar_sync(5, kThreads);  // every warp is done with the tiles
    float* to = partial(team) + lane / 4 * kSm90MlaRow + 64 * warp + 4 * (lane % 4);
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float (&s)[2][4] = sum[chunk];
        *reinterpret_cast<float4*>(to + 8 * h * kSm90MlaRow + 16 * chunk) = {
            s[0][2 * h], s[1][2 * h], s[0][2 * h + 1], s[1][2 * h + 1]};
      }
    }
  }

  __device__ void run() {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
      for (int i = 0; i < kBuffers; ++i) {
        ptx::mbarrier_init(full(i), 8);
        ptx::mbarrier_init(empty(i, 0), 8);
        ptx::mbarrier_init(empty(i, 1), 8);
      }
      ptx::fence_mbarrier_init();
    }
    const u32 lane = threadIdx.x % 32;
    const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    Row row;
    load_row(row, static_cast<int>(warp), lane);
    make_list<kThreads>(thread);
    consume(row, warp, lane);
    join();
  }
};

}  // namespace fathom
