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
  static constexpr int kHeadScores = 5 * 256;  // bytes: from every 128 columns, from the rotated ones

  __device__ u32 tile_at(u32 buffer) const { return entries() + buffer * kSm90MlaCodesTile; }
  __device__ u32 rotated() const { return tile_at(kBuffers); }  // of queries: [4][lanes] operands of 16 bytes
  __device__ u32 full(u32 buffer) const { return queries + kBarriersAt + 128 + 8 * buffer; }
  __device__ u32 empty(u32 buffer) const { return full(kBuffers + buffer); }
  __device__ float* shrinks() const { return exchange(); }       // [teams][heads]
  /// What a head's scores from each 128 columns are multiplied by: [heads][4].
  __device__ u32 factors() const { return queries + kExchangeAt + 4 * 32; }
  __device__ __forceinline__ float scale() const { return args.softmax_scale * kLog2E; }

  static __device__ __forceinline__ int entry(int r, int i) { return 16 * r + (i ^ (r & 1)); }
  /// Bytes to 16 bytes at place i of a head's scores or weights: neighbouring heads' lie in different banks.
  static __device__ __forceinline__ int spread(int head, int i) { return (i ^ (head % 2 * 4 + head / 2 % 4)) * 16; }

  /// Over the scores of heads `pair` and 8 further their weights of the four entries at place i, an operand of a product.
  static __device__ __forceinline__ int weights_at(int pair, int group, int i) {
    return pair * kHeadScores + 256 * group + (i ^ pair % 2) * 16;
  }

  /// A warp of a team: its eight entries of a tile. Beyond the end they are the first one, without weight.
  __device__ __forceinline__ void fetch(u32 tile, int warp, int lane) const {
    if (tile >= static_cast<u32>(tiles())) return;
    const u32 buffer = tile % kBuffers;
    if (lane == 0) ptx::mbarrier_arrive_expect_tx(full(buffer), 8 * kEntry);
    __syncwarp();
    const int row = 8 * warp + lane;
    if (lane < 8) ptx::cp_async_bulk(tile_at(buffer) + row * kEntry, entry_at(static_cast<int>(tile), row), kEntry, full(buffer));
  }

  /// Two words of bf16 times a power of two, as f16.
  static __device__ __forceinline__ u32 as_f16(u32 pair, float power) {
    return ptx::cvt_f16x2(__uint_as_float(pair << 16) * power, __uint_as_float(pair & 0xffff0000u) * power);
  }

  /// What a lane has of the queries' first 512 columns: of heads lane / 4 and 8 further the columns 128 * group + 64 x + 16 * (lane % 4) + 4 v and
  /// three more.
  struct Queries {
    u32 operands[2][4][4];  // [x][v]
  };
  __device__ __forceinline__ void take_queries(Queries& q, int warp, int lane) const {
    const int group = warp % 4;
    const int c = lane % 4;
    uint4 words[2][2][2];  // [x][half][head]
    u32 most[2] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = lane / 4 + i % 2 * 8;
      const int chunk = 16 * group + i / 4 * 8 + 2 * c + i / 2 % 2;
      const uint4 v = *reinterpret_cast<const uint4*>(start + place(row, chunk, kQueryBlockBytes));
      words[i / 4][i / 2 % 2][i % 2] = v;
      const u32 four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) most[i % 2] = max(most[i % 2], max(four[j] << 16 & 0x7fffffffu, four[j] & 0x7fff0000u));
    }
    float power[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      most[h] = max(most[h], __shfl_xor_sync(~0u, most[h], 1));
      most[h] = max(most[h], __shfl_xor_sync(~0u, most[h], 2));
      const u32 exponent = max(most[h] >> 23, 16u);
      power[h] = __uint_as_float((268 - exponent) << 23);  // the largest becomes 2^14 or more
      const float factor = __uint_as_float((exponent - 14) << 23) * scale();
      if (warp < 4 && c == 0) ptx::st_shared(factors() + (lane / 4 + 8 * h) * 16 + group * 4, factor);
    }
#pragma unroll
    for (int x = 0; x < 2; ++x) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint4 (&two)[2][2] = words[x];
        const u32 all[8] = {two[0][h].x, two[0][h].y, two[0][h].z, two[0][h].w,
                            two[1][h].x, two[1][h].y, two[1][h].z, two[1][h].w};
#pragma unroll
        for (int i = 0; i < 8; ++i) q.operands[x][i / 2][i % 2 * 2 + h] = as_f16(all[i], power[h]);
      }
    }
    if (warp >= 2) return;
    const int chunk = 64 + c + 4 * warp;
    const uint4 low = *reinterpret_cast<const uint4*>(start + place(lane / 4, chunk, kQueryBlockBytes));
    const uint4 high = *reinterpret_cast<const uint4*>(start + place(lane / 4 + 8, chunk, kQueryBlockBytes));
    const u32 to = rotated() + 1024 * warp + 16 * lane;
    ptx::st_shared_4(to, {low.x, high.x, low.y, high.y});
    ptx::st_shared_4(to + 512, {low.z, high.z, low.w, high.w});
  }

  /// Of a warp of a team the scores of 32 entries from its 128 columns, and of 8 entries from the rotated ones.
  __device__ __forceinline__ void multiply_queries(const Queries& q, u32 tile_number, u32 scores, int warp, int lane) const {
    const u32 tile = tile_at(tile_number % kBuffers);
    const int group = warp % 4;
    const int c = lane % 4;
    const int head = lane / 4;
    const int place_of = lane / 8 + lane / 4 % 2 * 4;  // of this lane's column, of eight
    const int i0 = warp / 4 * 8;
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
          ptx::mma_f16(sum[r], q.operands[x][v], b0, b1);
        }
      }
    }
    const int j = i0 + group;  // places j and j + 4
    float last[4] = {};
    const u32 keys = tile + entry(lane / 8, j + lane / 4 % 2 * 4) * kEntry + 528 + 16 * c;
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      const int4 b = ptx::ld_shared_int4(keys + 64 * x);
      const int4 a = ptx::ld_shared_int4(rotated() + 1024 * x + 16 * lane);
      const int4 d = ptx::ld_shared_int4(rotated() + 1024 * x + 512 + 16 * lane);
      ptx::mma_bf16(last, {u32(a.x), u32(a.y), u32(a.z), u32(a.w)}, b.x, b.y);
      ptx::mma_bf16(last, {u32(d.x), u32(d.y), u32(d.z), u32(d.w)}, b.z, b.w);
    }
    if (tile_number >= 2) {
      const u32 before = tile_number - 2;  // the team's: when its weights and entries have been read
      ptx::mbarrier_wait(empty(before % kBuffers), before / kBuffers & 1);
      fetch(tile_number + 2, warp, lane);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const u32 to = scores + (head + 8 * h) * kHeadScores;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int at = 2 * h + n;
        ptx::st_shared_4(to + 256 * group + spread(head, i0 + c + 4 * n),
                         float4{sum[0][at], sum[1][at], sum[2][at], sum[3][at]});
        ptx::st_shared(to + 256 * 4 + spread(head, j + 4 * n) + 4 * c, last[at]);
      }
    }
  }

  /// Of a warp of a team two heads' weights of a tile. A lane has four entries of a head.
  struct Softmax {
    float highest = __uint_as_float(0xff800000u);
    float total = 0;
  };
  __device__ __forceinline__ void weigh(Softmax& s, u32 tile, u32 scores, float* shrink_at, int left, int head, int i) const {
    const u32 at = scores + head * kHeadScores;
    const float4 four = ptx::ld_shared_4(factors() + 16 * head);
    const float by[5] = {four.x, four.y, four.z, four.w, scale()};
    float score[4];
    float4 scales[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) scales[r] = ptx::ld_shared_4(tile + entry(r, i) * kEntry + 512);
#pragma unroll
    for (int g = 4; g >= 0; --g) {
      const float4 v = ptx::ld_shared_4(at + 256 * g + spread(head, i));
      const float parts[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float own[4] = {scales[r].x, scales[r].y, scales[r].z, scales[r].w};
        score[r] = g == 4 ? parts[r] * by[4] : __fmaf_rn(parts[r] * by[g], own[g % 4], score[r]);
      }
    }
    const float lowest = __uint_as_float(0xff800000u);
    float most = lowest;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if (entry(r, i) >= left) score[r] = lowest;
      const float largest = fmaxf(fmaxf(fabsf(scales[r].x), fabsf(scales[r].y)), fmaxf(fabsf(scales[r].z), fabsf(scales[r].w)));
      most = fmaxf(most, score[r] + ptx::log2(fmaxf(largest, 0x1p-60f)));
    }
#pragma unroll
    for (int lanes = 1; lanes < 16; lanes *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, lanes));
    most = fmaxf(most, s.highest);
    const float shrink = ptx::exp2(s.highest - most);  // 0 at first
    s.highest = most;
    float weight[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) weight[r] = ptx::exp2(score[r] - most);
    s.total = s.total * shrink + ((weight[0] + weight[1]) + (weight[2] + weight[3]));
    if (i == 0) shrink_at[head] = shrink;
    __syncwarp();  // scores have been read
#pragma unroll
    for (int r = 0; r < 4; ++r) weight[r] *= 0x1p14f;
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      float own[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float all[4] = {scales[r].x, scales[r].y, scales[r].z, scales[r].w};
        own[r] = weight[r] * all[g];
      }
      u32* to = reinterpret_cast<u32*>(start + (scores - queries) + weights_at(head % 8, g, i)) + head / 8;
      to[0] = ptx::cvt_f16x2(own[0], own[1]);
      to[2] = ptx::cvt_f16x2(own[2], own[3]);
    }
  }

  /// Of a warp of a team 64 columns of the sums: column 64 * warp + 16 * chunk + 4 * (lane % 4) + 2 * (i % 2) + odd of head
  /// lane / 4 + i / 2 * 8 is sum[chunk][odd][i].
  __device__ __forceinline__ void add_entries(float (&sum)[4][2][4], u32 tile, u32 scores, const float* shrink_at, int warp, int lane) const {
    const int c = lane % 4;
    const int head = lane / 4;
    u32 weights[4][4];  // [step][operand]
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int4 v = ptx::ld_shared_int4(scores + weights_at(head, warp / 2, step / 2 * 8 + 2 * c + step % 2));
      weights[step][0] = v.x, weights[step][1] = v.y, weights[step][2] = v.z, weights[step][3] = v.w;
    }
    const float shrink[2] = {shrink_at[head], shrink_at[head + 8]};
#pragma unroll
    for (int i = 0; i < 32; ++i) sum[i / 8][i / 4 % 2][i % 4] *= shrink[i / 2 % 2];
    // Row lane % 8 of matrix lane / 8: of the first or last 8 of k, and of one of two chunks of 16 columns.
    const int q = lane % 2;
    const int first = 32 * (lane / 8 % 2) + 16 * q + (lane % 8 & ~1);
    const u32 chunk = tile + 64 * warp + lane / 16 * 16;
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
    }
  }

  __device__ __forceinline__ void consume() const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int all = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
    const int team = all / 8;
    const int warp = all % 8;
    const u32 scores = queries + team * kSm90MlaCodesScores;
    float* shrink_at = shrinks() + 16 * team;
    fetch(team, warp, lane);
    fetch(team + 2, warp, lane);
    Queries q;
    ptx::cp_async_wait_all();
    ptx::bar_sync(5, kThreads);
    take_queries(q, all % 8, lane);
    ptx::bar_sync(5, kThreads);
    Softmax softmax;
    float sum[4][2][4] = {};
    for (u32 tile = team; tile < static_cast<u32>(tiles()); tile += 2) {
      const int lane = static_cast<int>(ptx::pinned(threadIdx.x)) % 32;  // addresses are not kept in registers
      const u32 buffer = tile % kBuffers;
      const u32 at = tile_at(buffer);
      ptx::mbarrier_wait(full(buffer), tile / kBuffers & 1);
      multiply_queries(q, tile, scores, warp, lane);
      ptx::bar_sync(1 + team, 256);
      weigh(softmax, at, scores, shrink_at, count - static_cast<int>(tile) * kSm90MlaEntries, warp + lane / 16 * 8, lane % 16);
      ptx::bar_sync(1 + team, 256);
      add_entries(sum, at, scores, shrink_at, warp, lane);
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(empty(buffer));
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
            s[0][2 * h] * 0x1p-14f, s[1][2 * h] * 0x1p-14f, s[0][2 * h + 1] * 0x1p-14f, s[1][2 * h + 1] * 0x1p-14f};
      }
    }
  }

  __device__ void run() {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
      for (int i = 0; i < kBuffers; ++i) {
        ptx::mbarrier_init(full(i), 8);
        ptx::mbarrier_init(empty(i), 8);
      }
      ptx::fence_mbarrier_init();
    }
    fetch_queries<kThreads>(thread);
    make_list<kThreads>(thread);
    consume();
    join();
  }
};

}  // namespace fathom
