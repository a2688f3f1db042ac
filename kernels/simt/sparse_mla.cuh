// Latent attention over a list of entries, on any architecture. The valid entries are taken in list order, 16 at a
// time, with a running maximum: what a row gets depends on its query and on these entries alone.
#pragma once
#include "layout/sparse_mla.cuh"
#include "simt/rows.cuh"

namespace fathom::simt {

constexpr int kMlaListed = kRowThreads;  // indices that are looked at together
static_assert(kMlaHeads * kMlaEntries == kRowThreads && kMlaColumns == 2 * kRowThreads);

struct MlaShared {
  int slots[kMlaListed + kMlaEntries];  // valid ones that wait
  int counts[kRowThreads / 32];
  float weights[kMlaEntries][kMlaHeads];
  float shrink[kMlaHeads];  // what the sums so far are worth under the new maximum
};

/// How many indices of a token count.
__device__ __forceinline__ int mla_length(const SparseMlaKernel& args, long long token) {
  if (args.lengths == nullptr) return args.top_k;
  const int length = args.lengths[token * args.lengths_step];
  return length < 0 ? 0 : length < args.top_k ? length : args.top_k;
}

/// Four elements from column d on of an entry, as far as the width goes.
__device__ __forceinline__ void load_entry(const SparseMlaKernel& args, const unsigned char* entry, int d, int width,
                                           float (&x)[4]) {
  const unsigned char* scales = entry + args.lora;
  const unsigned char* rope = scales + args.lora / 128 * 4;
  if (args.element == 1 && d < args.lora) {  // lora is a multiple of 128
    const unsigned codes = load_word(entry + d);
    const float scale = __uint_as_float(load_word(scales + d / 128 * 4));
    for (int i = 0; i < 4; ++i) x[i] = f8e4m3_to_float(static_cast<unsigned char>(codes >> 8 * i)) * scale;
    return;
  }
  for (int i = 0; i < 4; ++i) {
    if (d + i >= width) {
      x[i] = 0;
    } else if (args.element == 1) {
      const unsigned char* at = rope + 2 * (d + i - args.lora);
      x[i] = bf16_to_float(static_cast<unsigned short>(at[0] | at[1] << 8));
    } else {
      x[i] = load_element(entry, args.element == 2, d + i);
    }
  }
}

/// The 16 heads of one block. `q` and `entries` are rows of mla_row(width) floats in shared memory.
struct MlaBlock {
  const SparseMlaKernel& args;
  MlaShared& shared;
  float* q;
  float* entries;
  int width, row;
  int first_head, first_column;
  float highest = __uint_as_float(0xff800000u);  // of this thread's head, as are these
  float total = 0;
  float sum[kMlaHeads][2] = {};

  __device__ void load_q(long long token) {
    for (int i = static_cast<int>(threadIdx.x); i < kMlaHeads * row; i += kRowThreads) {
      const int head = first_head + i / row;
      const int d = i % row;
      float x = 0;
      if (head < args.heads && d < width) {
        x = load_element(args.q.data, args.q.bf16, token * args.q.row + head * args.q.head + d);
      }
      q[i] = args.element == 4 ? x : bf16_to_float(float_to_bf16(x));
    }
  }

  /// Takes `count` entries, 1 to 16.
  __device__ void add(const int* slots, int count) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < kMlaEntries * row / 4; i += kRowThreads) {
      const int e = i / (row / 4);
      const int d = i % (row / 4) * 4;
      float x[4] = {};
      if (e < count && d < width) {
        load_entry(args, static_cast<const unsigned char*>(args.cache) + slots[e] * args.cache_row, d, width, x);
      }
      *reinterpret_cast<float4*>(entries + e * row + d) = {x[0], x[1], x[2], x[3]};
    }
    __syncthreads();
    const int head = thread / kMlaEntries;
    const int entry = thread % kMlaEntries;
    const float* a = q + head * row;
    const float* b = entries + entry * row;
    float dot = 0;
    for (int d = 0; d < row; d += 4) {
      const float4 u = *reinterpret_cast<const float4*>(a + d);
      const float4 v = *reinterpret_cast<const float4*>(b + d);
      dot = __fmaf_rn(u.x, v.x, dot);
      dot = __fmaf_rn(u.y, v.y, dot);
      dot = __fmaf_rn(u.z, v.z, dot);
      dot = __fmaf_rn(u.w, v.w, dot);
    }
    const float score = entry < count ? dot * args.softmax_scale : __uint_as_float(0xff800000u);
    float most = score;
    for (int lanes = kMlaEntries / 2; lanes > 0; lanes /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, lanes));
    most = fmaxf(most, highest);
    const float shrink = expf(highest - most);  // 0 at first
    const float weight = entry < count ? expf(score - most) : 0.0f;
    float weights = weight;
    for (int lanes = kMlaEntries / 2; lanes > 0; lanes /= 2) weights += __shfl_xor_sync(~0u, weights, lanes);
    total = __fmaf_rn(total, shrink, weights);
    highest = most;
    shared.weights[entry][head] = weight;
    if (entry == 0) shared.shrink[head] = shrink;
    __syncthreads();
    const int column = first_column + 2 * thread;
#pragma unroll
    for (int h = 0; h < kMlaHeads; ++h) {
      sum[h][0] *= shared.shrink[h];
      sum[h][1] *= shared.shrink[h];
    }
    if (column < args.lora) {
      for (int e = 0; e < count; ++e) {
        const float2 v = *reinterpret_cast<const float2*>(entries + e * row + column);
#pragma unroll
        for (int h = 0; h < kMlaHeads; ++h) {
          sum[h][0] = __fmaf_rn(shared.weights[e][h], v.x, sum[h][0]);
          sum[h][1] = __fmaf_rn(shared.weights[e][h], v.y, sum[h][1]);
        }
      }
    }
    __syncthreads();  // entries and weights are written again
  }

  __device__ void store(long long token) {
    const int own = first_head + static_cast<int>(threadIdx.x) / kMlaEntries;
    if (threadIdx.x % kMlaEntries == 0 && own < args.heads) {
      if (args.lse != nullptr && first_column == 0) args.lse[token * args.lse_row + own] = highest + logf(total);
      if (args.sink != nullptr && total != 0) total += expf(args.sink[own] - highest);
      shared.shrink[own - first_head] = total == 0 ? 0.0f : 1.0f / total;  // no entry: zeros
    }
    __syncthreads();
    const int column = first_column + 2 * static_cast<int>(threadIdx.x);
#pragma unroll
    for (int h = 0; h < kMlaHeads; ++h) {
      if (first_head + h >= args.heads) break;
      const long long at = token * args.out.row + (first_head + h) * args.out.head + column;
      const float share = shared.shrink[h];
      if (column < args.lora) store_element(args.out.data, args.out.bf16, at, sum[h][0] * share);
      if (column + 1 < args.lora) store_element(args.out.data, args.out.bf16, at + 1, sum[h][1] * share);
    }
  }
};

/// Blocks (token, 16 heads, 512 columns).
__device__ inline void sparse_mla(const SparseMlaKernel& args) {
  extern __shared__ float4 memory[];
  __shared__ MlaShared shared;
  const int width = args.lora + args.rope_dim;
  const int row = mla_row(width);
  float* q = reinterpret_cast<float*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  for (long long token = blockIdx.x; token < args.tokens; token += gridDim.x) {
    MlaBlock block{args,
                   shared,
                   q,
                   q + kMlaHeads * row,
                   width,
                   row,
                   static_cast<int>(blockIdx.y) * kMlaHeads,
                   static_cast<int>(blockIdx.z) * kMlaColumns};
    block.load_q(token);
    int waiting = 0;
    const int length = mla_length(args, token);
    for (int first = 0; first < length; first += kMlaListed) {
      const int i = first + thread;
      const int slot = i < length ? args.indices[token * args.indices_row + i] : -1;
      const bool valid = slot >= 0 && slot < args.slots;
      const unsigned mask = __ballot_sync(~0u, valid);
      if (lane_id() == 0) shared.counts[thread / 32] = __popc(mask);
      __syncthreads();
      int at = waiting + __popc(mask & (1u << lane_id()) - 1);
      for (int w = 0; w < kRowThreads / 32; ++w) {
        at += w < thread / 32 ? shared.counts[w] : 0;
        waiting += shared.counts[w];
      }
      if (valid) shared.slots[at] = slot;
      __syncthreads();
      int taken = 0;
      for (; waiting - taken >= kMlaEntries; taken += kMlaEntries) block.add(shared.slots + taken, kMlaEntries);
      waiting -= taken;
      // The rest, less than 16, moves to the front.
      const int rest = thread < waiting ? shared.slots[taken + thread] : 0;
      __syncthreads();
      if (thread < waiting) shared.slots[thread] = rest;
      __syncthreads();
    }
    if (waiting > 0) block.add(shared.slots, waiting);
    block.store(token);
    __syncthreads();
  }
}

}  // namespace fathom::simt
