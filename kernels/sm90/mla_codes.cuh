// Latent attention of up to 16 heads of a token over a quantised cache, whose codes are multiplied as they are: they
// become f16, which holds them all, in registers. The heads are the rows of a warp's products.
//
// Entries come into shared memory by bulk copies, 64 of them a tile. Four warps issue them and do nothing else, for a
// warp waits where the copy engine has too many on their way. Two teams of eight warps take every second tile each, with
// a reference, a total and sums of their own: two parts of the result, which are joined as those of other blocks are. Of a
// tile a warp has the scores of 32 entries from 128 columns and of eight from the rotated ones, then two heads' weights,
// then 64 columns of the sums.
//
// A head's queries are times a power of two, so that f16 holds them. A weight is times the scale of the entry's 128
// columns, and relative to a reference: the head's highest of exp(score) times the entry's largest scale, or what that
// was at an earlier tile, as long as f16 holds the weights.
//
// Lanes have entries that lie in different banks: 16 r + (i ^ r % 2) is number r of four at place i of 16.
#pragma once
#include "ptx/mma.cuh"
#include "sm90/mla_block.cuh"

namespace fathom {

struct Sm90MlaCodes : Sm90MlaBlock<16, true> {
  using Block = Sm90MlaBlock<16, true>;
  using Block::Block;
  static constexpr int kCopyThreads = kSm90MlaCodesThreads - kSm90MlaThreads;
  static constexpr u32 kEntry = kSm90MlaCodesEntry;
  static constexpr u32 kBuffers = kSm90MlaCodesBuffers;
  static constexpr u32 kHeadScores = 5 * 256;  // bytes: from every 128 columns, from the rotated ones
  static constexpr float kLevel = 10;          // a new reference makes the largest weight 2^kLevel,
  static constexpr float kRoom = 5;            // and is kept until one is 2^kRoom times that

  __device__ u32 tile_at(u32 tile) const { return entries() + tile % kBuffers * kSm90MlaCodesTile; }
  __device__ u32 rotated() const { return entries() + kBuffers * kSm90MlaCodesTile; }  // queries, [4][lanes] operands
  /// Of the entries at places below 8, or of the others.
  __device__ u32 full(u32 tile, u32 half) const {
    return queries + kBarriersAt + 128 + 64 * half + 8 * (tile % kBuffers);
  }
  __device__ u32 empty(u32 tile, u32 half) const { return full(tile, half) + 8 * kBuffers; }
  static __device__ u32 phase(u32 tile) { return tile / kBuffers & 1; }

  static __device__ __forceinline__ u32 entry(u32 r, u32 i) { return 16 * r + (i ^ (r & 1)); }
  static __device__ __forceinline__ float scale_of(const float4& scales, int group) {
    return group == 0 ? scales.x : group == 1 ? scales.y : group == 2 ? scales.z : scales.w;
  }

  /// A warp of the block.
  struct Warp {
    u32 team, number;  // in its team
    u32 scores;        // the team's: [heads][5][places][4], and over them weights
    u32 shrinks;       // the team's: [heads], what sums are multiplied by
    u32 levels;        // the team's: [places][4], logarithms of the entries' largest scales
  };
  __device__ __forceinline__ Warp warp_of(u32 number) const {
    const u32 exchange = queries + kExchangeAt;
    const u32 team = number / 8;
    return {team, number % 8, queries + team * kSm90MlaCodesScores, exchange + 64 * team, exchange + 256 * (1 + team)};
  }
  __device__ u32 inverses() const { return queries + kExchangeAt + 128; }  // [heads], of the queries' powers of two

  /// Bytes to 16 bytes at place i of a head's scores: neighbouring heads' lie in different banks.
  static __device__ __forceinline__ u32 spread(u32 head, u32 i) { return (i ^ (head % 2 * 4 + head / 2 % 4)) * 16; }
  /// Bytes to the weights that heads `pair` and 8 further give the four entries at place i: an operand of a product.
  static __device__ __forceinline__ u32 weights_at(u32 pair, u32 group, u32 i) {
    return pair * kHeadScores + 256 * group + (i ^ pair % 2) * 16;
  }
  /// The operand of a lane: of heads lane / 4 and 8 further columns 16 * (lane % 4) + 4 * (step % 4) and three more of
  /// the 64 columns from 64 * (step / 4) on.
  __device__ __forceinline__ u32 operand_at(u32 step, u32 lane) const {
    return queries + kSm90MlaCodesScores + 512 * step + (lane ^ step % 4 / 2 * 4) * 16;
  }

  /// A warp has half of a tile, a lane an entry: number `row`. Few lists share entries, so they are the first to leave
  /// the L2 cache again, before what others wrote there. The team's tile before has to have come: with more on the way
  /// the first ones come later, and multiprocessors' shares of memory's time differ more.
  __device__ __forceinline__ void fetch(u32 tile, u32 half, u32 row, u32 slot) const {
    if (tile >= 2) ptx::mbarrier_wait(full(tile - 2, half), phase(tile - 2));
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive_expect_tx(full(tile, half), 32 * kEntry);
    __syncwarp();
    const u8* entry = static_cast<const u8*>(args.cache) + slot * args.cache_row;
    ptx::cp_async_bulk(tile_at(tile) + row * kEntry, entry, kEntry, full(tile, half), ptx::kEvictFirst);
  }
  /// Producers: a warp has a half of a team's tiles. The first ones, if all of their indices are valid and so their
  /// numbers in the list, do not wait for the list. Beyond the end entries are the first one, without weight.
  __device__ __forceinline__ void produce(u32 warp, u32 lane) {
    const u32 half = warp % 2;
    const u32 team = warp / 2 % 2;
    const u32 row = lane / 8 * 16 + half * 8 + lane % 8;
    u32 tile = team;
    ptx::bar_sync(7, kCopyThreads + 32);
    if (rank() == 0 && simt::mla_length(args, token) >= static_cast<int>(kBuffers) * kSm90MlaEntries) {
      const int* indices = args.indices + i64{token} * args.indices_row;
      u32 slot[2 * kBuffers];
      bool valid = true;
#pragma unroll
      for (u32 i = 0; i < 2 * kBuffers; ++i) slot[i] = indices[(i / 2 ^ team) * kSm90MlaEntries + (row ^ i % 2 * 8)];
#pragma unroll
      for (u32 i = 0; i < 2 * kBuffers; ++i) valid &= slot[i] < slots();
      if (__all_sync(~0u, valid)) {
        fetch(tile, half, row, slot[0]);
        fetch(tile + 2, half, row, slot[4]);
        tile += kBuffers;
      }
    }
    ptx::bar_sync(8, kSm90MlaCodesThreads);
    count = counts()[0];
    for (; tile < static_cast<u32>(tiles()); tile += 2) {
      if (tile >= kBuffers) ptx::mbarrier_wait(empty(tile - kBuffers, half), phase(tile - kBuffers));
      const u32 at = tile * kSm90MlaEntries + row;
      fetch(tile, half, row, static_cast<u32>(list()[at < static_cast<u32>(count) ? at : 0]));
    }
  }

  /// A warp has one head's queries, as bf16: a lane of every 256 columns eight, at last of 64.
  struct Row {
    uint4 eight[3];
  };
  __device__ __forceinline__ void load_row(Row& row, int head, u32 lane) const {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      row.eight[i] = {0, 0, 0, 0};
      if (head >= args.heads || 32 * i + lane >= 72) continue;
      const i64 from = i64{token} * args.q.row + head * args.q.head + (32 * i + lane) * 8;
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
      const uint4& v = row.eight[i];
      words[i][0] = v.x, words[i][1] = v.y, words[i][2] = v.z, words[i][3] = v.w;
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
          const u32 to = operand_at(chunk / 8 * 4 + chunk % 2 * 2 + j / 2, head % 8 * 4 + chunk % 8 / 2);
          ptx::st_shared(to + operand, __uint_as_float(ptx::cvt_f16x2(low, high)));
        } else if (lane < 8) {
          const u32 to = rotated() + (lane / 4 * 2 + j / 2) * 512 + (head % 8 * 4 + lane % 4) * 16;
          ptx::st_shared(to + operand, __uint_as_float(ptx::cvt_bf16x2(low, high)));
        }
      }
    }
  }

  static __device__ __forceinline__ void load_words(u32 (&to)[4], u32 from) {
    const int4 v = ptx::ld_shared_int4(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  }

  /// A warp's scores of tile `number`, by its 128 columns of the queries.
  __device__ __forceinline__ void multiply_queries(const u32 (&operands)[8][4], const Warp& warp, u32 number,
                                                   u32 lane) const {
    const u32 tile = tile_at(number);
    const u32 group = warp.number % 4;
    const u32 c = lane % 4;
    const u32 head = lane / 4;
    const u32 i0 = warp.number / 4 * 8;              // the first place of eight
    const u32 i = i0 + lane / 8 + lane / 4 % 2 * 4;  // of this lane's columns
    const u32 codes = tile + 128 * group + 16 * c;
    const u32 from[2] = {codes + entry(0, i) * kEntry, codes + (entry(1, i) - 16) * kEntry};
    float sum[4][4] = {};
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      u32 words[4][4];
#pragma unroll
      for (int r = 0; r < 4; ++r) load_words(words[r], from[r % 2] + 16 * r * kEntry + 64 * x);
#pragma unroll
      for (int v = 0; v < 4; ++v) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          u32 b0, b1;
          ptx::cvt_f16x4(words[r][v], b0, b1);
          ptx::mma_f16(sum[r], operands[4 * x + v], b0, b1);
        }
      }
    }
    // From the rotated columns: entries at two places, a column of the product each.
    const u32 j = i0 + group;
    const u32 own = j + lane / 4 % 2 * 4;
    const u32 keys = tile + entry(lane / 8, own) * kEntry + 528;
    if (c == 0) {
      const float4 s = ptx::ld_shared_4(keys - 16);
      const float largest = fmaxf(fmaxf(fabsf(s.x), fabsf(s.y)), fmaxf(fabsf(s.z), fabsf(s.w)));
      ptx::st_shared(warp.levels + 16 * own + lane / 8 * 4, ptx::log2(fmaxf(largest, 0x1p-60f)) - kLevel);
    }
    float last[4] = {};
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      u32 a[2][4], b[4];
      load_words(b, keys + 16 * c + 64 * x);
#pragma unroll
      for (int y = 0; y < 2; ++y) {
        load_words(a[y], rotated() + 1024 * x + 512 * y + 16 * lane);
        ptx::mma_bf16(last, a[y], b[2 * y], b[2 * y + 1]);
      }
    }
    const u32 at = warp.scores + head * kHeadScores;
    const u32 codes_to = 256 * group + spread(head, i0 + c);
    const u32 last_to = 256 * 4 + spread(head, j) + 4 * c;
#pragma unroll
    for (int k = 0; k < 4; ++k) {  // heads 8 further, places 4 further
      const u32 to = at + k / 2 * 8 * kHeadScores;
      ptx::st_shared_4(to + (codes_to ^ k % 2 * 64), float4{sum[0][k], sum[1][k], sum[2][k], sum[3][k]});
      ptx::st_shared(to + (last_to ^ k % 2 * 64), last[k]);
    }
  }

  struct Softmax {
    float factor;  // of scores
    float reference = __uint_as_float(0xff800000u);
    float total = 0;
  };
  /// The weights that a head gives the four entries at place i; `left` are not beyond the end. Waits for the scores.
  __device__ __forceinline__ void weigh(Softmax& s, const Warp& warp, u32 number, int left, u32 head, u32 i) const {
    float4 scales[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) scales[r] = ptx::ld_shared_4(tile_at(number) + entry(r, i) * kEntry + 512);
    ptx::bar_sync(1 + static_cast<int>(warp.team), 256);
    const u32 at = warp.scores + head * kHeadScores + spread(head, i);
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
      for (int r = 0; r < 4; ++r) {
        if (static_cast<int>(entry(r, i)) >= left) score[r] = __uint_as_float(0xff800000u);
      }
    }
    const float4 level = ptx::ld_shared_4(warp.levels + 16 * i);
    float most = fmaxf(fmaxf(score[0] + level.x, score[1] + level.y), fmaxf(score[2] + level.z, score[3] + level.w));
#pragma unroll
    for (int lanes = 1; lanes < 16; lanes *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, lanes));
    most = most > s.reference + kRoom ? most : s.reference;
    const float shrink = ptx::exp2(s.reference - most);  // 0 at first
    s.reference = most;
    if (i == 0) ptx::st_shared(warp.shrinks + 4 * head, shrink);
    float weight[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) weight[r] = ptx::exp2(score[r] - most);
    s.total = s.total * shrink + ((weight[0] + weight[1]) + (weight[2] + weight[3]));
    __syncwarp();  // scores have been read
    const u32 to = warp.scores + weights_at(head % 8, 0, i) + head / 8 * 4;
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      float own[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) own[r] = weight[r] * scale_of(scales[r], g);
      ptx::st_shared(to + 256 * g, __uint_as_float(ptx::cvt_f16x2(own[0], own[1])));
      ptx::st_shared(to + 256 * g + 8, __uint_as_float(ptx::cvt_f16x2(own[2], own[3])));
    }
  }

  /// A warp's sums: column 64 * warp + 16 * chunk + 4 * (lane % 4) + 2 * (i % 2) + odd of head lane / 4 + i / 2 * 8 is
  /// sum[chunk][odd][i]. Waits for the weights.
  __device__ __forceinline__ void add_entries(float (&sum)[4][2][4], const Warp& warp, u32 number, u32 lane) const {
    // Row lane % 8 of matrix lane / 8: of the first or last 8 of k, and of one of two chunks of 16 columns.
    const u32 q = lane % 2;
    const u32 first = 32 * (lane / 8 % 2) + 16 * q + (lane % 8 & ~1);
    const u32 codes = tile_at(number) + 64 * warp.number + lane / 16 * 16;
    const auto load = [&](u32 (&to)[2][4], u32 step) {
      const u32 row = codes + (first + (step % 2 ^ q)) * kEntry + step / 2 * (8 * kEntry);
      ptx::ldmatrix_x4_transposed(to[0], row);
      ptx::ldmatrix_x4_transposed(to[1], row + 32);
    };
    u32 words[2][4];
    load(words, 0);
    ptx::bar_sync(1 + static_cast<int>(warp.team), 256);
    u32 weights[4][4];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const u32 place = step / 2 * 8 + lane % 4 * 2 + step % 2;
      load_words(weights[step], warp.scores + weights_at(lane / 4, warp.number / 2, place));
    }
    const u32 shrinks = warp.shrinks + lane / 4 * 4;
    const float shrink[2] = {ptx::ld_shared(shrinks), ptx::ld_shared(shrinks + 32)};
    if (__any_sync(~0u, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
      for (int i = 0; i < 32; ++i) sum[i / 8][i / 4 % 2][i % 4] *= shrink[i / 2 % 2];
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      if (step > 0) load(words, step);
#pragma unroll
      for (int chunk = 0; chunk < 4; ++chunk) {
        u32 b[2][2];  // [odd][half of k]
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          ptx::cvt_f16x4(__byte_perm(words[chunk / 2][chunk % 2 * 2 + half], 0, 0x3120), b[0][half], b[1][half]);
        }
        ptx::mma_f16(sum[chunk][0], weights[step], b[0][0], b[0][1]);
        ptx::mma_f16(sum[chunk][1], weights[step], b[1][0], b[1][1]);
      }
      if (step % 2 == 1) {
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(empty(number, step / 2));
      }
    }
  }

  __device__ __forceinline__ void consume(const Row& row, u32 all, u32 lane) const {
    const Warp warp = warp_of(all);
    store_row(row, all, lane);
    ptx::bar_sync(5, kSm90MlaThreads);
    u32 operands[8][4];
#pragma unroll
    for (u32 step = 0; step < 8; ++step) load_words(operands[step], operand_at(8 * (warp.number % 4) + step, lane));
    Softmax softmax;
    softmax.factor = args.softmax_scale * kLog2E * ptx::ld_shared(inverses() + 4 * (warp.number + lane / 16 * 8));
    ptx::bar_sync(5, kSm90MlaThreads);
    float sum[4][2][4] = {};
    for (u32 tile = warp.team; tile < static_cast<u32>(tiles()); tile += 2) {
      const u32 own = ptx::pinned(threadIdx.x) % 32;  // so that addresses are not kept in registers
      const u32 half = warp.number / 4;
      ptx::mbarrier_wait(full(tile, half), phase(tile));
      multiply_queries(operands, warp, tile, own);
      ptx::mbarrier_wait(full(tile, half ^ 1), phase(tile));
      const int left = count - static_cast<int>(tile) * kSm90MlaEntries;
      weigh(softmax, warp, tile, left, warp.number + own / 16 * 8, own % 16);
      add_entries(sum, warp, tile, own);
    }
#pragma unroll
    for (int lanes = 1; lanes < 16; lanes *= 2) softmax.total += __shfl_xor_sync(~0u, softmax.total, lanes);
    const int team = static_cast<int>(warp.team);
    const int head = static_cast<int>(warp.number + lane / 16 * 8);
    if (lane % 16 == 0) set_statistics(team, head, softmax.reference, softmax.total);
    ptx::bar_sync(5, kSm90MlaThreads);  // every warp is done with the tiles
    const bool alone = kernel.blocks == 1;
    const int line = static_cast<int>(lane / 4);
    const int column = static_cast<int>(64 * warp.number + 4 * (lane % 4));
    float4 kept[4];  // of heads 8 * team + line
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float (&s)[2][4] = sum[chunk];
        const float4 v = {s[0][2 * h], s[1][2 * h], s[0][2 * h + 1], s[1][2 * h + 1]};
        if (h == team) kept[chunk] = v;
        if (h == team && alone) continue;
        *reinterpret_cast<float4*>(partial(team) + (line + 8 * h) * kSm90MlaRow + column + 16 * chunk) = v;
      }
    }
    if (alone) add_teams(kept, team, line + 8 * team, column);
  }

  /// Where a block has the whole list: a team adds up both teams' sums of eight heads, as join() does. Its own are in
  /// registers: a thread's four columns of every 16 from `column` on.
  __device__ __forceinline__ void add_teams(const float4 (&own)[4], int team, int row, int column) const {
    Factors factors[2];
    float highest = __uint_as_float(0xff800000u);
    float total = 0;
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      const float* part = statistics() + 2 * p * 16 + row;
      factors[p] = factors_of(highest, part[0]);
      highest = fmaxf(highest, part[0]);
      total = add(total, part[16], factors[p]);
    }
    if (row < args.heads) total = share_of(row, total, highest, column == 0);
    ptx::bar_sync(5, kSm90MlaThreads);
    if (row >= args.heads) return;
    const i64 to = i64{token} * args.out.row + row * args.out.head + column;
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
      const u32 from = ptx::shared_address(partial(1 - team) + row * kSm90MlaRow + column + 16 * chunk);
      const float4 other = ptx::ld_shared_4(from);
      const float4 a = team == 0 ? own[chunk] : other;
      const float4 b = team == 0 ? other : own[chunk];
      const auto both = [&](float x, float y) { return add(add(0, x, factors[0]), y, factors[1]) * total; };
      store(to + 16 * chunk, {both(a.x, b.x), both(a.y, b.y), both(a.z, b.z), both(a.w, b.w)});
    }
  }

  __device__ void run() {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
      for (u32 i = 0; i < kBuffers; ++i) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
          ptx::mbarrier_init(full(i, half), 1);
          ptx::mbarrier_init(empty(i, half), 8);
        }
      }
      ptx::fence_mbarrier_init();
    }
    const u32 lane = threadIdx.x % 32;
    const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (warp >= kSm90MlaThreads / 32) {
      ptx::setmaxnreg_dec<32>();
      produce(warp, lane);
      return;
    }
    if (warp == 0) ptx::bar_arrive(7, kCopyThreads + 32);  // barriers can be used
    Row row;
    load_row(row, static_cast<int>(warp), lane);
    make_list<kSm90MlaThreads>(thread);
    if (thread == 0) counts()[0] = count;
    ptx::bar_arrive(8, kSm90MlaCodesThreads);  // the list is there
    ptx::setmaxnreg_inc<112>();
    consume(row, warp, lane);
    if (kernel.blocks > 1) join();
  }
};

}  // namespace fathom
