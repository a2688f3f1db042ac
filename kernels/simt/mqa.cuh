// The indexer's scores on any architecture. A score is one function of a query and a key: for every head a chain of
// fused products along the dimension, then the heads in ascending order. mqa_logits and paged_mqa_logits call the
// same one, so their scores have the same bytes, whatever the batch, the drafts and the windows.
#pragma once
#include "layout/mqa.cuh"
#include "simt/cache.cuh"

namespace fathom::simt {

constexpr int kMqaDepth = 32;  // elements along the dimension in shared memory at a time
constexpr int kMqaSide = 16;   // threads along each side of a tile of 64 heads and 64 keys
constexpr int kMqaEach = kMqaKeys / kMqaSide;
static_assert(kMqaSide * kMqaSide == kRowThreads && kMqaHeads == kMqaKeys);

struct MqaF8 {
  using Bits = unsigned char;
  static __device__ float to_float(Bits bits) { return f8e4m3_to_float(bits); }
};
struct MqaF32 {
  using Bits = float;
  static __device__ float to_float(Bits bits) { return bits; }
};

struct MqaShared {
  float q[kMqaDepth][kMqaHeads + 1];
  float k[kMqaDepth][kMqaKeys + 1];
  float heads[kMqaHeads][kMqaKeys + 1];  // weight * max(0, dot)
};

/// The sum over heads for key threadIdx.x of up to 64 keys, without the key's scale; threads from 64 on get nothing.
/// `q` and `weights` are the query token's; key(j) is where key j begins.
template <class Element, class Key>
__device__ float score_keys(MqaShared& shared, const MqaQueries& queries, const typename Element::Bits* q,
                            const float* weights, int count, Key key) {
  const int thread = static_cast<int>(threadIdx.x);
  const int x = thread % kMqaSide;
  const int y = thread / kMqaSide;
  float score = 0;
  for (long long first = 0; first < queries.heads; first += kMqaHeads) {
    float dot[kMqaEach][kMqaEach] = {};
    for (long long d = 0; d < queries.dim; d += kMqaDepth) {
      __syncthreads();  // everybody has read the tiles before
      for (int i = thread; i < kMqaHeads * kMqaDepth; i += kRowThreads) {
        const int row = i / kMqaDepth;
        const int c = i % kMqaDepth;
        const bool inside = d + c < queries.dim;
        shared.q[c][row] =
            inside && first + row < queries.heads ? Element::to_float(q[(first + row) * queries.head + d + c]) : 0.0f;
        shared.k[c][row] = inside && row < count ? Element::to_float(key(row)[d + c]) : 0.0f;
      }
      __syncthreads();
#pragma unroll 4
      for (int c = 0; c < kMqaDepth; ++c) {
        float a[kMqaEach], b[kMqaEach];
#pragma unroll
        for (int i = 0; i < kMqaEach; ++i) {
          a[i] = shared.q[c][y + i * kMqaSide];
          b[i] = shared.k[c][x + i * kMqaSide];
        }
#pragma unroll
        for (int i = 0; i < kMqaEach; ++i) {
#pragma unroll
          for (int j = 0; j < kMqaEach; ++j) dot[i][j] = __fmaf_rn(a[i], b[j], dot[i][j]);
        }
      }
    }
    // The sums of the heads before have been taken: two barriers lie between.
#pragma unroll
    for (int i = 0; i < kMqaEach; ++i) {
      const int head = y + i * kMqaSide;
      const float weight = first + head < queries.heads ? weights[first + head] : 0.0f;
#pragma unroll
      for (int j = 0; j < kMqaEach; ++j) shared.heads[head][x + j * kMqaSide] = weight * fmaxf(dot[i][j], 0.0f);
    }
    __syncthreads();
    const long long left = queries.heads - first;
    const int heads = left < kMqaHeads ? static_cast<int>(left) : kMqaHeads;
    if (thread < kMqaKeys) {
      for (int h = 0; h < heads; ++h) score += shared.heads[h][thread];
    }
  }
  return score;
}

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

/// Blocks (tile of keys, token).
template <class Element>
__device__ void mqa_logits(const MqaLogitsKernel& args) {
  using Bits = typename Element::Bits;
  __shared__ MqaShared shared;
  const long long j0 = static_cast<long long>(blockIdx.x) * kMqaKeys;
  const long long j = j0 + threadIdx.x;
  const long long end = j0 + kMqaKeys < args.keys ? j0 + kMqaKeys : args.keys;
  for (long long t = blockIdx.y; t < args.q.rows; t += gridDim.y) {
    const long long first = integer_at(args.first, t);
    const long long last = integer_at(args.last, t);
    const long long begin = first > j0 ? first : j0;
    const long long stop = last < end ? last : end;
    float score = 0;
    if (begin < stop) {
      const Bits* keys = static_cast<const Bits*>(args.k) + begin * args.k_row;
      score = score_keys<Element>(shared, args.q, static_cast<const Bits*>(args.q.data) + t * args.q.token,
                                  args.q.weights + t * args.q.weights_row, static_cast<int>(stop - begin),
                                  [&](int i) { return keys + i * args.k_row; });
    }
    // The scores of [begin, stop) lie in the first threads; the others fill what no window covers.
    if (threadIdx.x >= kMqaKeys) continue;
    float* row = args.logits + t * args.logits_row;
    const long long scored = begin + threadIdx.x;
    if (scored < stop) row[scored] = args.k_scale != nullptr ? args.k_scale[scored] * score : score;
    if (j < end && (j < begin || j >= stop)) row[j] = minus_infinity();
  }
}

/// Blocks (64 keys of a request, row). A page that is none of the cache's has no keys. kDim is of u8 caches.
template <class Element, int kPage, int kDim>
__device__ void paged_mqa_logits(const PagedMqaLogitsKernel& args) {
  using Bits = typename Element::Bits;
  __shared__ MqaShared shared;
  const long long j0 = static_cast<long long>(blockIdx.x) * kMqaKeys;
  for (long long row = blockIdx.y; row < args.q.rows; row += gridDim.y) {
    const long long request = row / args.q.next_n;
    const long long token = row % args.q.next_n;
    long long length = args.context_lens[request * args.lens_row + token * args.lens_step];
    length = length < args.max_len ? length : args.max_len;
    constexpr int kParts = kPage < kMqaKeys ? kMqaKeys / kPage : 1;  // pages of the block's keys
    const long long first = kParts > 1 ? blockIdx.x * static_cast<long long>(kParts) : blockIdx.x / (kPage > kMqaKeys ? kPage / kMqaKeys : 1);
    long long page = j0 < length ? page_at(args.block_table, request, first, args.cache.pages) : -1;
    long long pages[kParts] = {page};
    for (int i = 1; i < kParts; ++i) {
      pages[i] = j0 + i * kPage < length ? page_at(args.block_table, request, first + i, args.cache.pages) : -1;
      if (page < 0) page = pages[i];  // one that is there, for keys that are not
    }
    const long long left = page < 0 ? 0 : length - j0;
    const int count = left < kMqaKeys ? static_cast<int>(left) : kMqaKeys;
    const auto page_of = [&](int i) {
      if (kParts == 1) return page;
      long long mine = pages[0];
      for (int part = 1; part < kParts; ++part) mine = i / kPage == part ? pages[part] : mine;
      return mine;
    };
    const auto entry_of = [&](int i) {
      return kPage > kMqaKeys ? static_cast<int>(j0 % kPage) + i : kPage == kMqaKeys ? i : i % kPage;
    };
    float score = 0;
    if (count > 0) {
      score = score_keys<Element>(shared, args.q,
                                  static_cast<const Bits*>(args.q.data) + request * args.q.request + token * args.q.token,
                                  args.q.weights + row * args.q.weights_row, count, [&](int i) {
                                    long long at = page_of(i);
                                    if (kParts > 1 && at < 0) at = page;  // to be read, not to be used
                                    return static_cast<const Bits*>(args.cache.data) + at * args.cache.page +
                                           entry_of(i) * args.cache.key;
                                  });
    }
    const long long j = j0 + threadIdx.x;
    if (threadIdx.x >= kMqaKeys || j >= args.max_len) continue;
    const int mine = static_cast<int>(threadIdx.x);
    const long long mine_on = page_of(mine);
    if (mine >= count || (kParts > 1 && mine_on < 0)) {
      score = minus_infinity();
    } else if (!args.cache.f32) {
      score = __uint_as_float(load_word(index_scale<kPage, kDim>(args.cache, mine_on, entry_of(mine)))) * score;
    }
    args.logits[row * args.logits_row + j] = score;
  }
}

}  // namespace fathom::simt
