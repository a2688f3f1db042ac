// Writing and reading the paged caches, and the split of the work over them. The bytes are those of the CPU ops.
// Slots and pages that are none of the cache's are passed over: nobody has looked at them before.
#pragma once
#include "layout/cache.cuh"
#include "simt/group_quant.cuh"
#include "simt/rows.cuh"
#include "simt/scan.cuh"

namespace fathom::simt {

/// Key `entry` of a page of a u8 cache, and its scale.
template <int kDim>
__device__ __forceinline__ unsigned char* index_key(const IndexCacheView& cache, long long page, int entry) {
  return static_cast<unsigned char*>(cache.data) + page * cache.page + entry * kDim;
}
template <int kPage, int kDim>
__device__ __forceinline__ unsigned char* index_scale(const IndexCacheView& cache, long long page, int entry) {
  return index_key<kDim>(cache, page, kPage) + 4 * entry;
}
__device__ __forceinline__ float* index_key_f32(const IndexCacheView& cache, long long page, int entry) {
  return static_cast<float*>(cache.data) + page * cache.page + entry * cache.key;
}
/// Page `index` of a request; -1 if there is none.
__device__ __forceinline__ long long page_at(const BlockTable& table, long long request, long long index,
                                             long long pages) {
  if (request < 0 || request >= table.rows || index < 0 || index >= table.pages) return -1;
  const int page = table.data[request * table.row + index * table.step];
  return page >= 0 && page < pages ? page : -1;
}

/// The scale of values that a warp has, kEach a lane; they become what codes are taken of.
template <int kRule, bool kUe8m0, int kEach>
__device__ __forceinline__ float scale_values(float (&x)[kEach]) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) amax = fmaxf(amax, fabsf(x[i]));  // NaN does not count
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, lanes));
  const GroupScale group = group_scale<kRule, kUe8m0>(amax);
#pragma unroll
  for (int i = 0; i < kEach; ++i) x[i] = scaled<kRule, kUe8m0>(x[i], group);
  return group.scale;
}
/// Writes the codes of the first `count` values of a lane.
template <int kEach>
__device__ __forceinline__ void put_codes(unsigned char* to, const float (&x)[kEach], int count = kEach) {
  if constexpr (kEach == 4) {
    if (count == kEach) {
      store_word(to, float_to_f8e4m3x2(x[0], x[1]) | float_to_f8e4m3x2(x[2], x[3]) << 16);
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (i < count) to[i] = static_cast<unsigned char>(float_to_f8e4m3x2(x[i], 0.0f));
  }
}

/// A warp quantises 128 values, four a lane, or 64 or 32 to `to` and returns the scale.
template <int kRule, bool kUe8m0, int kValues = 128>
__device__ float quantize_group(const void* data, int bf16, long long first, unsigned char* to) {
  constexpr int kEach = kValues / 32;
  float x[kEach];
  for (int i = 0; i < kEach; ++i) x[i] = load_element(data, bf16, first + kEach * lane_id() + i);
  const float scale = scale_values<kRule, kUe8m0>(x);
  put_codes(to + kEach * lane_id(), x);
  return scale;
}

/// A warp stores one key. kDim is of u8 caches.
template <int kPage, int kDim>
__device__ inline void index_key_store(const IndexKeyStoreKernel& args) {
  for_each_warp_task(args.tokens, [&](long long token) {
    const long long slot = integer_at(args.slots, token);
    if (slot < 0 || slot >= args.cache.pages * kPage) return;
    const long long page = slot / kPage;
    const int entry = static_cast<int>(slot % kPage);
    const long long row = token * args.k.row;
    if (args.cache.f32) {
      float* to = index_key_f32(args.cache, page, entry);
      for (long long i = lane_id(); i < args.dim; i += 32) to[i] = load_element(args.k.data, args.k.bf16, row + i);
      return;
    }
    unsigned char* to = index_key<kDim>(args.cache, page, entry);
    const float scale = args.ue8m0 ? quantize_group<kIndexer, true, kDim>(args.k.data, args.k.bf16, row, to)
                                   : quantize_group<kIndexer, false, kDim>(args.k.data, args.k.bf16, row, to);
    if (lane_id() == 0) store_word(index_scale<kPage, kDim>(args.cache, page, entry), __float_as_uint(scale));
  });
}

/// The block's sum of value(i) over [0, count); every thread gets it.
template <class Value>
__device__ long long block_sum(long long count, Value value) {
  __shared__ long long sums[kRowThreads / 32];
  long long sum = 0;
  for (long long i = threadIdx.x; i < count; i += kRowThreads) sum += value(i);
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  __syncthreads();
  if (lane_id() == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  long long total = 0;
  for (int i = 0; i < kRowThreads / 32; ++i) total += sums[i];
  return total;
}

/// Blocks (x, b) copy keys of request b, a warp a key. kDim is of u8 caches.
template <int kPage, int kDim>
__device__ inline void index_key_gather(const IndexKeyGatherKernel& args) {
  const auto length = [&](long long b) {
    const long long len = integer_at(args.lens, b);
    return len > 0 ? len : 0;
  };
  for (long long b = blockIdx.y; b < args.batch; b += gridDim.y) {
    const long long base = block_sum(b, length);
    const long long room = args.total - base;
    const long long keys = length(b) < room ? length(b) : room;  // whatever lens holds
    for_each_warp_task(keys, [&](long long i) {
      const long long row = base + i;
      const long long page = page_at(args.block_table, b, i / kPage, args.cache.pages);
      const int entry = static_cast<int>(i % kPage);
      if (args.cache.f32) {
        float* to = static_cast<float*>(args.keys) + row * args.keys_row;
        for (long long d = lane_id(); d < args.dim; d += 32) {
          to[d] = page < 0 ? 0.0f : index_key_f32(args.cache, page, entry)[d];
        }
        return;
      }
      if (4 * lane_id() < kDim) {
        unsigned char* to = static_cast<unsigned char*>(args.keys) + row * args.keys_row + 4 * lane_id();
        store_word(to, page < 0 ? 0u : load_word(index_key<kDim>(args.cache, page, entry) + 4 * lane_id()));
      }
      if (lane_id() == 0) {
        args.scales[row] = page < 0 ? 0.0f : __uint_as_float(load_word(index_scale<kPage, kDim>(args.cache, page, entry)));
      }
    });
  }
}

/// Element `index` as f32 (4 bytes), bf16 (2) at any address.
__device__ __forceinline__ void put_in_cache(unsigned char* to, int element, long long index, float value) {
  if (element == 4) {
    store_word(to + 4 * index, __float_as_uint(value));
    return;
  }
  const unsigned short bits = float_to_bf16(value);
  to[2 * index] = static_cast<unsigned char>(bits);
  to[2 * index + 1] = static_cast<unsigned char>(bits >> 8);
}

/// Elements [begin, end) of a row as f32 (4 bytes), bf16 (2) at any address.
__device__ inline void copy_to_cache(const SimtRows& x, long long row, long long begin, long long end,
                                     unsigned char* to, int element) {
  for (long long i = begin + lane_id(); i < end; i += 32) {
    const long long index = row * x.row + i;
    if (element == 4) {
      store_word(to + 4 * i, __float_as_uint(load_element(x.data, x.bf16, index)));
      continue;
    }
    const unsigned short bits = x.bf16 ? static_cast<const unsigned short*>(x.data)[index]
                                       : float_to_bf16(static_cast<const float*>(x.data)[index]);
    to[2 * i] = static_cast<unsigned char>(bits);
    to[2 * i + 1] = static_cast<unsigned char>(bits >> 8);
  }
}

/// Blocks (x, group): a warp stores 128 values of the latent of one token, or its rope.
__device__ inline void mla_cache_store(const MlaCacheStoreKernel& args) {
  const long long groups = (args.lora + 127) / 128;
  const long long group = blockIdx.y;
  const bool quantised = args.element == 1;
  for_each_warp_task(args.tokens, [&](long long token) {
    const long long slot = integer_at(args.slots, token);
    if (slot < 0 || slot >= args.cache_rows) return;
    unsigned char* entry = static_cast<unsigned char*>(args.cache) + slot * args.cache_row * args.element;
    if (group == groups) {
      copy_to_cache(args.rope, token, 0, args.rope_dim, entry + args.lora * args.element + (quantised ? 4 * groups : 0),
                    quantised ? 2 : args.element);
    } else if (quantised) {
      const float scale = quantize_group<kKvCache, false>(args.latent.data, args.latent.bf16,
                                                          token * args.latent.row + 128 * group, entry + 128 * group);
      if (lane_id() == 0) store_word(entry + args.lora + 4 * group, __float_as_uint(scale));
    } else {
      const long long end = 128 * group + 128 < args.lora ? 128 * group + 128 : args.lora;
      copy_to_cache(args.latent, token, 128 * group, end, entry, args.element);
    }
  });
}

/// One block. Requests are taken 256 at a time; each tells the workers that start in it.
__device__ inline void paged_mqa_schedule(const PagedMqaScheduleKernel& args) {
  __shared__ long long sums[kRowThreads / 32];
  const auto splits_of = [&](long long b) {
    int keys = 0;
    for (long long i = 0; i < args.next_n; ++i) {
      const int len = args.context_lens[b * args.lens_row + i * args.lens_step];
      keys = len > keys ? len : keys;
    }
    return (static_cast<long long>(keys) + kScheduleSplitKeys - 1) / kScheduleSplitKeys;
  };
  const long long total = block_sum(args.batch, splits_of);
  const long long each = total / args.workers;
  const long long more = total % args.workers;  // workers that have one split more, the first ones
  const auto start_of = [&](long long worker) { return worker * each + (worker < more ? worker : more); };
  const auto put = [&](long long worker, long long request, long long split) {
    args.schedule[2 * worker] = static_cast<int>(request);
    args.schedule[2 * worker + 1] = static_cast<int>(split);
  };
  long long base = 0;
  for (long long first = 0; first < args.batch; first += kRowThreads) {
    const long long b = first + threadIdx.x;
    const long long splits = b < args.batch ? splits_of(b) : 0;
    long long all;
    const long long end = base + inclusive_sum<kRowThreads>(splits, sums, all);
    const long long begin = end - splits;
    base += all;
    // The first worker that starts at `begin` or later.
    long long worker = begin <= more * (each + 1) ? (begin + each) / (each + 1)
                                                  : more + (begin - more * (each + 1) + each - 1) / each;
    for (; splits > 0 && worker <= args.workers && start_of(worker) < end; ++worker) put(worker, b, start_of(worker) - begin);
    __syncthreads();  // sums are written again
  }
  for (long long worker = threadIdx.x; worker <= args.workers; worker += kRowThreads) {
    if (start_of(worker) >= total) put(worker, args.batch, 0);
  }
}

}  // namespace fathom::simt
