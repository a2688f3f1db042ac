// Rows brought together expert by expert, in the order of (token, slot): as simt/moe_permute.cuh, by counting.
//
// A slot's row is where its group begins plus the slots of that group before it. Both are counts: those over long runs
// come from counters in shared memory, whose sums do not depend on the order, those over a block's own slots from
// comparing ids.
#pragma once
#include "layout/moe.cuh"
#include "simt/scan.cuh"
#include "simt/values.cuh"

namespace fathom::simt {

/// The group of a slot; -1 also for ids of no group.
__device__ __forceinline__ int group_of(const MoePermuteKernelArgs& args, unsigned slot) {
  const unsigned top_k = static_cast<unsigned>(args.top_k);
  const unsigned token = slot / top_k;
  const int id = args.ids[token * args.ids_row + (slot - token * top_k)];
  return id >= 0 && id < args.groups ? id : -1;
}

__device__ __forceinline__ int& slot_row(const MoePermuteKernelArgs& args, long long token, int slot) {
  return args.slot_to_row[token * args.slot_to_row_row + slot];
}

/// Counters of all groups: of all slots, of those before `first` (if not null), and where each group begins.
struct Groups {
  int* totals;  // [groups]
  int* begins;  // [groups + 1]
  int* before;  // [groups]
};

/// Where groups begin, from their totals; kept within the rows that there are. The first block writes what describes
/// the groups. All threads of the block.
template <int kThreads>
__device__ __forceinline__ void begin_groups(const MoePermuteKernelArgs& args, const Groups& groups) {
  __shared__ long long sums[kThreads / 32];
  long long before = 0;  // rows of the groups before, their padding included
  for (int first = 0; first < args.groups; first += kThreads) {
    const int g = first + static_cast<int>(threadIdx.x);
    const long long count = g < args.groups ? groups.totals[g] : 0;
    const long long padded =
        args.alignment == 1 ? count : divide(count + args.alignment - 1, args.alignment).quotient * args.alignment;
    const long long own = args.masked ? 0 : padded;
    long long total;
    const long long at = before + inclusive_sum<kThreads>(own, sums, total) - own;
    before += total;
    if (g < args.groups) {
      const long long room = args.masked ? args.rows : args.rows > at ? args.rows - at : 0;
      groups.begins[g] = static_cast<int>(args.masked ? g * args.rows : at < args.rows ? at : args.rows);
      if (blockIdx.x == 0 && args.masked_m != nullptr) {
        args.masked_m[g * args.masked_m_step] = static_cast<int>(count < room ? count : room);
      }
      if (blockIdx.x == 0 && args.offsets != nullptr) args.offsets[g * args.offsets_step] = groups.begins[g];
    }
    __syncthreads();  // sums may be used again
  }
  if (threadIdx.x == 0) {
    const int end = static_cast<int>(before < args.rows ? before : args.rows);
    groups.begins[args.groups] = end;
    if (blockIdx.x == 0 && args.offsets != nullptr) args.offsets[args.groups * args.offsets_step] = end;
  }
  __syncthreads();
}

/// The row of the slot that has `rank` slots of its group before it, or -1 if there is no such row.
__device__ __forceinline__ int row_of(const MoePermuteKernelArgs& args, const Groups& groups, int id, int rank) {
  if (id < 0) return -1;
  const long long row = static_cast<long long>(groups.begins[id]) + rank;
  return (args.masked ? rank < args.rows : row < args.rows) ? static_cast<int>(row) : -1;
}

/// The groups of the rows, by all blocks.
__device__ __forceinline__ void write_row_groups(const MoePermuteKernelArgs& args, const Groups& groups) {
  if (args.row_to_group == nullptr) return;
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long r = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; r < args.rows; r += step) {
    int low = 0, high = args.groups;  // the last group that begins at r or before
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (groups.begins[middle] <= r ? low : high) = middle;
    }
    const bool inside =
        r < groups.begins[args.groups] && r < static_cast<long long>(groups.begins[low]) + groups.totals[low];
    args.row_to_group[r * args.row_to_group_step] = inside ? low : -1;
  }
}

/// How many of ids[0, count) are `id`; `first` and `step` deal them out in fours. Entries up to the next multiple of
/// four are there, and may hold anything.
__device__ __forceinline__ int count_equal(const int* ids, int count, int id, int first, int step) {
  int equal = 0;
#pragma unroll 4
  for (int j = 4 * first; j < count; j += 4 * step) {
    const int4 four = *reinterpret_cast<const int4*>(ids + j);
    equal += (four.x == id) + (four.y == id && j + 1 < count) + (four.z == id && j + 2 < count) +
             (four.w == id && j + 3 < count);
  }
  return equal;
}

/// Row `token` of x, from word `first` on in steps of `step`, to the rows that rows(slot) names; and its scales.
template <class Word, class Rows>
__device__ __forceinline__ void copy_token(const MoePermuteKernelArgs& args, long long token, long long first,
                                           long long step, const Rows& rows) {
  constexpr int kAhead = 8;  // slots whose rows are looked up together
  const auto place = [&](int row, long long group_step, long long row_step) {
    if (!args.masked) return row * row_step;
    const unsigned group = static_cast<unsigned>(row) / static_cast<unsigned>(args.rows);
    return group * group_step + (row - group * args.rows) * row_step;
  };
  const auto* x = reinterpret_cast<const Word*>(static_cast<const char*>(args.x) + token * args.x_row);
  for (int slot = 0; slot < args.top_k; slot += kAhead) {
    int to[kAhead];
#pragma unroll
    for (int s = 0; s < kAhead; ++s) to[s] = slot + s < args.top_k ? rows(slot + s) : -1;
#pragma unroll 1
    for (long long i = first; i < args.width / static_cast<long long>(sizeof(Word)); i += step) {
      const Word word = x[i];
#pragma unroll
      for (int s = 0; s < kAhead; ++s) {
        if (to[s] < 0) continue;
        reinterpret_cast<Word*>(static_cast<char*>(args.out) + place(to[s], args.out_group, args.out_row))[i] = word;
      }
    }
#pragma unroll 1
    for (long long i = first; i < args.scales; i += step) {
      const unsigned scale = args.x_scale[token * args.x_scale_row + i * args.x_scale_column];
#pragma unroll
      for (int s = 0; s < kAhead; ++s) {
        if (to[s] < 0) continue;
        args.out_scale[place(to[s], args.out_scale_group, args.out_scale_row) + i * args.out_scale_column] = scale;
      }
    }
  }
}

/// Blocks of kCountThreads slots: slot_to_row, and what describes the groups. Shared memory for three numbers of every
/// group.
__device__ inline void moe_count_place(const MoePermuteKernelArgs& args, int* shared) {
  alignas(16) __shared__ int ids[kCountThreads];
  const Groups groups{shared, shared + args.groups, shared + 2 * args.groups + 1};
  const unsigned slots = static_cast<unsigned>(args.tokens * args.top_k);
  const unsigned first = blockIdx.x * kCountThreads;
  for (int g = static_cast<int>(threadIdx.x); g < args.groups; g += kCountThreads) {
    groups.totals[g] = 0;
    groups.before[g] = 0;
  }
  __syncthreads();
#pragma unroll 4
  for (unsigned slot = threadIdx.x; slot < slots; slot += kCountThreads) {
    const int id = group_of(args, slot);
    if (id < 0) continue;
    atomicAdd(&groups.totals[id], 1);
    if (slot < first) atomicAdd(&groups.before[id], 1);
  }
  const unsigned slot = first + threadIdx.x;
  const int id = slot < slots ? group_of(args, slot) : -1;
  ids[threadIdx.x] = id;
  __syncthreads();
  begin_groups<kCountThreads>(args, groups);
  write_row_groups(args, groups);
  if (slot >= slots) return;
  const int rank = id < 0 ? 0 : groups.before[id] + count_equal(ids, static_cast<int>(threadIdx.x), id, 0, 1);
  const unsigned token = slot / static_cast<unsigned>(args.top_k);
  slot_row(args, token, static_cast<int>(slot - token * args.top_k)) = row_of(args, groups, id, rank);
}

/// After moe_count_place: a block for every token.
template <class Word>
__device__ void moe_count_copy(const MoePermuteKernelArgs& args) {
  for (long long token = blockIdx.x; token < args.tokens; token += gridDim.x) {
    copy_token<Word>(args, token, threadIdx.x, kPermuteThreads,
                     [&](int slot) { return slot_row(args, token, slot); });
  }
}

/// Both for up to kPermuteMostSlots slots: every block counts the groups for itself, and equally many blocks copy each
/// token. Shared memory for two numbers of every group.
template <class Word>
__device__ void moe_count_permute(const MoePermuteKernelArgs& args, int* shared) {
  alignas(16) __shared__ int ids[kPermuteMostSlots];
  __shared__ int rows[kPermuteMostSlots];
  const Groups groups{shared, shared + args.groups, nullptr};
  const int slots = static_cast<int>(args.tokens) * args.top_k;
  for (int g = static_cast<int>(threadIdx.x); g < args.groups; g += kPermuteThreads) groups.totals[g] = 0;
  __syncthreads();
  for (int slot = static_cast<int>(threadIdx.x); slot < slots; slot += kPermuteThreads) {
    const int id = group_of(args, slot);
    ids[slot] = id;
    if (id >= 0) atomicAdd(&groups.totals[id], 1);
  }
  __syncthreads();
  begin_groups<kPermuteThreads>(args, groups);
  write_row_groups(args, groups);
  if (args.tokens == 0) return;
  const int split = static_cast<int>(gridDim.x) / static_cast<int>(args.tokens);
  const int token = static_cast<int>(blockIdx.x) / split;
  const int part = static_cast<int>(blockIdx.x) % split;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int s = static_cast<int>(threadIdx.x) / 32; s < args.top_k; s += kPermuteThreads / 32) {
    const int slot = token * args.top_k + s;
    const int rank = __reduce_add_sync(~0u, static_cast<unsigned>(count_equal(ids, slot, ids[slot], lane, 32)));
    if (lane != 0) continue;
    rows[s] = row_of(args, groups, ids[slot], rank);
    if (part == 0) slot_row(args, token, s) = rows[s];
  }
  __syncthreads();
  copy_token<Word>(args, token, part * kPermuteThreads + static_cast<int>(threadIdx.x),
                   static_cast<long long>(split) * kPermuteThreads, [&](int slot) { return rows[slot]; });
}

}  // namespace fathom::simt
