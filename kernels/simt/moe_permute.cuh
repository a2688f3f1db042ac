// Rows brought together expert by expert, in the order of (token, slot).
//
// A slot's row is where its group begins plus the slots of that group before it. Both are counts: those over long runs
// come from counters in shared memory, whose sums do not depend on the order, those over a block's own slots from
// comparing ids.
#pragma once
#include "layout/moe.cuh"
#include "simt/scan.cuh"
#include "simt/values.cuh"

namespace fathom::simt {

/// The group of a slot; -1 also for ids of no group. kDense: tokens follow one another without gaps.
template <bool kDense = false>
__device__ __forceinline__ int group_of(const MoePermuteKernelArgs& args, unsigned slot) {
  const unsigned top_k = static_cast<unsigned>(args.top_k);
  const unsigned token = kDense ? 0 : slot / top_k;
  const int id = __ldg(args.ids + (kDense ? slot : token * args.ids_row + (slot - token * top_k)));
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
  const auto padded = [&](int g) -> long long {
    const long long count = groups.totals[g];
    if (args.masked) return 0;
    return args.alignment == 1 ? count : divide(count + args.alignment - 1, args.alignment).quotient * args.alignment;
  };
  // A thread has a run of neighbouring groups.
  const int run = (args.groups + kThreads - 1) / kThreads;
  const int first = run * static_cast<int>(threadIdx.x);
  const int last = first + run < args.groups ? first + run : args.groups;
  long long own = 0;
#pragma unroll 1
  for (int g = first; g < last; ++g) own += padded(g);
  long long before;  // rows of the groups before, their padding included; of all groups in the end
  long long at = inclusive_sum<kThreads>(own, sums, before) - own;
#pragma unroll 1
  for (int g = first; g < last; ++g) {
    const long long count = groups.totals[g];
    const long long room = args.masked ? args.rows : args.rows > at ? args.rows - at : 0;
    groups.begins[g] = static_cast<int>(args.masked ? g * args.rows : at < args.rows ? at : args.rows);
    if (blockIdx.x == 0 && args.masked_m != nullptr) {
      args.masked_m[g * args.masked_m_step] = static_cast<int>(count < room ? count : room);
    }
    if (blockIdx.x == 0 && args.offsets != nullptr) args.offsets[g * args.offsets_step] = groups.begins[g];
    at += padded(g);
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

/// How many of ids[0, count) are `id`. Entries up to the next multiple of four are there, and may hold anything.
__device__ __forceinline__ int count_equal(const int* ids, int count, int id) {
  int equal = 0;
#pragma unroll 4
  for (int j = 0; j < count; j += 4) {
    const int4 four = *reinterpret_cast<const int4*>(ids + j);
    equal += (four.x == id) + (four.y == id && j + 1 < count) + (four.z == id && j + 2 < count) +
             (four.w == id && j + 3 < count);
  }
  return equal;
}

/// A thread's part of the row of a token: words, and a scale. Pass p of a row has kWords words for each of its `step`
/// threads and a scale.
template <class Word>
struct RowPart {
  static constexpr int kWords = 4;
  Word words[kWords];
  unsigned scale;

  __device__ __forceinline__ void load(const MoePermuteKernelArgs& args, long long token, int thread, int step,
                                       int pass) {
    const int count = static_cast<int>(args.width / static_cast<long long>(sizeof(Word)));
    const auto* x = reinterpret_cast<const Word*>(static_cast<const char*>(args.x) + token * args.x_row);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int at = (pass * kWords + i) * step + thread;
      if (at < count) words[i] = __ldg(x + at);
    }
    const int at = pass * step + thread;
    if (at < args.scales) scale = __ldg(args.x_scale + token * args.x_scale_row + at * args.x_scale_column);
  }
  __device__ __forceinline__ void store(const MoePermuteKernelArgs& args, int row, int thread, int step,
                                        int pass) const {
    const int count = static_cast<int>(args.width / static_cast<long long>(sizeof(Word)));
    unsigned group = 0;
    auto rest = static_cast<unsigned>(row);
    if (args.masked) {
      group = rest / static_cast<unsigned>(args.rows);
      rest -= group * static_cast<unsigned>(args.rows);
    }
    auto* out = reinterpret_cast<Word*>(static_cast<char*>(args.out) + group * args.out_group + rest * args.out_row);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int at = (pass * kWords + i) * step + thread;
      if (at < count) out[at] = words[i];
    }
    const int at = pass * step + thread;
    if (at < args.scales) {
      args.out_scale[group * args.out_scale_group + rest * args.out_scale_row + at * args.out_scale_column] = scale;
    }
  }
};

/// Row `token` of x and its scales, by `step` threads: store(pass) puts `part` where it belongs. `part` is loaded with
/// pass 0.
template <class Word, class Store>
__device__ __forceinline__ void copy_passes(const MoePermuteKernelArgs& args, long long token, int thread, int step,
                                            RowPart<Word>& part, const Store& store) {
  const long long words = args.width / static_cast<long long>(sizeof(Word));
#pragma unroll 1
  for (int pass = 0;;) {
    store(pass);
    ++pass;
    const long long done = static_cast<long long>(pass) * step;  // scales; and kWords words for each
    if (done * RowPart<Word>::kWords >= words && done >= args.scales) return;
    part.load(args, token, thread, step, pass);
  }
}

/// The same to the rows that row_of_slot(slot) names.
template <class Word, class Rows>
__device__ __forceinline__ void copy_token(const MoePermuteKernelArgs& args, long long token, int thread, int step,
                                           RowPart<Word>& part, const Rows& row_of_slot) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  copy_passes(args, token, thread, step, part, [&](int pass) {
#pragma unroll 1
    for (int first = 0; first < args.top_k; first += 32) {
      const int own = first + lane < args.top_k ? row_of_slot(first + lane) : -1;
      const int slots = args.top_k - first < 32 ? args.top_k - first : 32;
#pragma unroll 1
      for (int s = 0; s < slots; ++s) {
        const int row = __shfl_sync(~0u, own, s);
        if (row >= 0) part.store(args, row, thread, step, pass);
      }
    }
  });
}

/// Counts slots by group, those before `first` apart from the others. kAhead: loads under way together.
template <bool kDense, int kAhead>
__device__ __forceinline__ void count_slots(const MoePermuteKernelArgs& args, const Groups& groups, unsigned slots,
                                            unsigned first) {
#pragma unroll 1
  for (unsigned begin = threadIdx.x; begin < slots; begin += kAhead * kPlaceThreads) {
    int id[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const unsigned slot = begin + i * kPlaceThreads;
      id[i] = slot < slots ? group_of<kDense>(args, slot) : -1;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (id[i] >= 0) atomicAdd(&(begin + i * kPlaceThreads < first ? groups.before : groups.totals)[id[i]], 1);
    }
  }
}

/// Blocks of kPlaceThreads slots: slot_to_row, and what describes the groups. Shared memory for three numbers of every
/// group.
__device__ inline void moe_place(const MoePermuteKernelArgs& args, int* shared) {
  alignas(16) __shared__ int ids[kPlaceThreads];
  const Groups groups{shared, shared + args.groups, shared + 2 * args.groups + 1};
  const unsigned slots = static_cast<unsigned>(args.tokens * args.top_k);
  const unsigned first = blockIdx.x * kPlaceThreads;
  for (int g = static_cast<int>(threadIdx.x); g < args.groups; g += kPlaceThreads) {
    groups.totals[g] = 0;
    groups.before[g] = 0;
  }
  __syncthreads();
  if (args.ids_row == args.top_k) {
    count_slots<true, 16>(args, groups, slots, first);
  } else {
    count_slots<false, 2>(args, groups, slots, first);
  }
  const unsigned slot = first + threadIdx.x;
  const int id = slot < slots ? group_of(args, slot) : -1;
  ids[threadIdx.x] = id;
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < args.groups; g += kPlaceThreads) groups.totals[g] += groups.before[g];
  __syncthreads();
  begin_groups<kPlaceThreads>(args, groups);
  write_row_groups(args, groups);
  if (slot >= slots) return;
  const int rank = id < 0 ? 0 : groups.before[id] + count_equal(ids, static_cast<int>(threadIdx.x), id);
  const unsigned token = slot / static_cast<unsigned>(args.top_k);
  slot_row(args, token, static_cast<int>(slot - token * args.top_k)) = row_of(args, groups, id, rank);
}

/// After moe_place: a block for every token.
template <class Word>
__device__ void moe_copy(const MoePermuteKernelArgs& args) {
  const int thread = static_cast<int>(threadIdx.x);
  for (long long token = blockIdx.x; token < args.tokens; token += gridDim.x) {
    RowPart<Word> part;
    part.load(args, token, thread, kPermuteThreads, 0);
    copy_token(args, token, thread, kPermuteThreads, part, [&](int slot) { return slot_row(args, token, slot); });
  }
}

/// Both for up to kPermuteMostSlots slots: every block counts the groups for itself, and equally many blocks copy each
/// token. Shared memory for two numbers of every group.
template <class Word>
__device__ void moe_permute(const MoePermuteKernelArgs& args, int* shared) {
  __shared__ int ids[kPermuteMostSlots];
  __shared__ int rows[kPermuteMostSlots];
  const Groups groups{shared, shared + args.groups, nullptr};
  const int slots = static_cast<int>(args.tokens) * args.top_k;
  const int split = static_cast<int>(gridDim.x) / static_cast<int>(args.tokens);
  const int token = static_cast<int>(blockIdx.x) / split;
  const int thread = static_cast<int>(blockIdx.x) % split * kPermuteThreads + static_cast<int>(threadIdx.x);
  RowPart<Word> part;  // on its way while rows are placed
  part.load(args, token, thread, split * kPermuteThreads, 0);
#pragma unroll 1
  for (int g = static_cast<int>(threadIdx.x); g < args.groups; g += kPermuteThreads) groups.totals[g] = 0;
  __syncthreads();
#pragma unroll 1
  for (int slot = static_cast<int>(threadIdx.x); slot < slots; slot += kPermuteThreads) {
    const int id = group_of(args, slot);
    ids[slot] = id;
    if (id >= 0) atomicAdd(&groups.totals[id], 1);
  }
  __syncthreads();
  begin_groups<kPermuteThreads>(args, groups);
  write_row_groups(args, groups);
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
  for (int s = static_cast<int>(threadIdx.x) / 32; s < args.top_k; s += kPermuteThreads / 32) {
    const int slot = token * args.top_k + s;
    unsigned equal = 0;
#pragma unroll 1
    for (int i = lane; i < slot; i += 32) equal += ids[i] == ids[slot];
    const auto rank = static_cast<int>(__reduce_add_sync(~0u, equal));
    if (lane != 0) continue;
    rows[s] = row_of(args, groups, ids[slot], rank);
    if (thread < kPermuteThreads) slot_row(args, token, s) = rows[s];
  }
  __syncthreads();
  copy_token(args, token, thread, split * kPermuteThreads, part, [&](int slot) { return rows[slot]; });
}

/// Both for up to 32 slots: every warp knows them all, a lane each, so that no thread waits for another, and a block
/// copies the row of one slot.
template <class Word>
__device__ void moe_permute_few(const MoePermuteKernelArgs& args) {
  static_assert(kPermuteFewSlots == 32);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int slots = static_cast<int>(args.tokens) * args.top_k;
  const int slot = static_cast<int>(blockIdx.x);
  const int token = slots > 0 ? slot / args.top_k : 0;
  RowPart<Word> part;  // on its way while rows are placed
  if (slots > 0) part.load(args, token, thread, kPermuteThreads, 0);
  const int id = lane < slots ? group_of(args, static_cast<unsigned>(lane)) : -1;
  const unsigned same = __match_any_sync(~0u, id);
  const int rank = __popc(same & ((1u << lane) - 1));
  int taken = 0;  // rows that the group takes, told by its first slot
  if (id >= 0 && rank == 0 && !args.masked) {
    long long padded = args.alignment;  // a division would be the longest part of the code
    while (padded < __popc(same)) padded += args.alignment;
    taken = static_cast<int>(padded < args.rows ? padded : args.rows);
  }
  // The row that a group begins with, and how many slots are its own. All lanes take part.
  const auto look_up = [&](int group, int& count) {
    long long begin = 0;
    count = 0;
#pragma unroll 1
    for (int i = 0; i < slots; ++i) {
      const int other = __shfl_sync(~0u, id, i);
      const int rows = __shfl_sync(~0u, taken, i);
      if (other < group) begin += rows;
      count += other == group;
    }
    return begin < args.rows ? begin : args.rows;
  };
  int count;
  const long long begin = look_up(id, count);
  int row = -1;
  if (id >= 0 && (args.masked ? 0 : begin) + rank < args.rows) {
    row = static_cast<int>((args.masked ? id * args.rows : begin) + rank);
  }
  const int own = __shfl_sync(~0u, row, slot);
  if (slots > 0) {
    copy_passes(args, token, thread, kPermuteThreads, part, [&](int pass) {
      if (own >= 0) part.store(args, own, thread, kPermuteThreads, pass);
    });
    if (thread == slot) slot_row(args, token, slot - token * args.top_k) = row;
  }
  // What describes the groups, by all blocks.
  const int step = static_cast<int>(gridDim.x) * kPermuteThreads;
#pragma unroll 1
  for (int first = slot * kPermuteThreads; first <= args.groups; first += step) {
    const int g = first + thread;
    const long long begins = look_up(g, count);
    const long long room = args.rows - begins;
    if (g < args.groups && args.masked_m != nullptr) {
      args.masked_m[g * args.masked_m_step] = static_cast<int>(count < room ? count : room);
    }
    if (g <= args.groups && args.offsets != nullptr) args.offsets[g * args.offsets_step] = static_cast<int>(begins);
  }
  if (args.row_to_group == nullptr) return;
#pragma unroll 1
  for (long long first = slot * kPermuteThreads; first < args.rows; first += step) {
    int group = -1;
#pragma unroll 1
    for (int i = 0; i < slots; ++i) {
      const int other = __shfl_sync(~0u, id, i);
      if (__shfl_sync(~0u, row, i) == first + thread) group = other;
    }
    if (first + thread < args.rows) args.row_to_group[(first + thread) * args.row_to_group_step] = group;
  }
}

}  // namespace fathom::simt
