// Rows brought together expert by expert, in the order of (token, slot).
//
// Every warp has a run of neighbouring slots. It counts them by group; sums over the warps before it and over the
// groups before say where its slots of a group begin; then it walks its run again and hands out rows. Nothing depends
// on which warp is the quicker.
#pragma once
#include "layout/moe.cuh"
#include "simt/scan.cuh"
#include "simt/values.cuh"

namespace fathom::simt {

constexpr int kSlotsAhead = 8;  // loads of a lane that are under way together

/// Calls found(slot, id) for the slots of [begin, end), 32 at a time; lanes beyond the end get id -1, as do ids of no
/// group.
template <class Found>
__device__ __forceinline__ void each_slot(const MoePermuteKernelArgs& args, long long begin, long long end,
                                          const Found& found) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (long long first = begin; first < end; first += 32 * kSlotsAhead) {
    int ids[kSlotsAhead];
#pragma unroll
    for (int i = 0; i < kSlotsAhead; ++i) {
      const long long slot = first + 32 * i + lane;
      int id = -1;
      if (slot < end) {
        const Quotient at = divide(slot, args.top_k);
        id = args.ids[at.quotient * args.ids_row + at.rest];
      }
      ids[i] = id >= 0 && id < args.groups ? id : -1;
    }
#pragma unroll
    for (int i = 0; i < kSlotsAhead; ++i) {
      if (first + 32 * i < end) found(first + 32 * i + lane, ids[i]);
    }
  }
}

/// Where group g begins, and the rows after all of them at g = groups: kept within the rows that there are.
struct Places {
  int* counts;  // [warps][groups]; after place(): the next row of each
  int* begins;  // [groups + 1]
};

/// Calls put(slot, row) for every slot, with -1 for those without a row, by all threads of a block. Writes what
/// describes the groups, if this is the first block.
template <int kThreads, class Put>
__device__ void place(const MoePermuteKernelArgs& args, const Places& places, const Put& put) {
  constexpr int warps = kThreads / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const long long slots = args.tokens * args.top_k;
  const long long run = (slots + 32 * warps - 1) / (32 * warps) * 32;
  const long long begin = warp * run < slots ? warp * run : slots;
  const long long end = begin + run < slots ? begin + run : slots;
  int* counts = places.counts + warp * args.groups;
  for (int g = lane; g < args.groups; g += 32) counts[g] = 0;
  __syncwarp();
  each_slot(args, begin, end, [&](long long, int id) {
    const unsigned same = __match_any_sync(~0u, id);
    if (id >= 0 && lane == __ffs(same) - 1) counts[id] += __popc(same);
    __syncwarp();
  });
  __syncthreads();
  // Sums over the warps before, and every group's total in begins.
  for (int g = static_cast<int>(threadIdx.x); g < args.groups; g += kThreads) {
    int sum = 0;
    for (int w = 0; w < warps; ++w) {
      int& count = places.counts[w * args.groups + g];
      const int own = count;
      count = sum;
      sum += own;
    }
    places.begins[g] = sum;
  }
  __syncthreads();
  __shared__ long long sums[kThreads / 32];
  long long before = 0;  // rows of the groups before, their padding included
  for (int first = 0; first < args.groups; first += kThreads) {
    const int g = first + static_cast<int>(threadIdx.x);
    const long long count = g < args.groups ? places.begins[g] : 0;
    const long long own = args.masked ? 0 : divide(count + args.alignment - 1, args.alignment).quotient * args.alignment;
    long long total;
    const long long at = before + inclusive_sum<kThreads>(own, sums, total) - own;
    before += total;
    if (g < args.groups) {
      const long long room = args.masked ? args.rows : args.rows > at ? args.rows - at : 0;
      places.begins[g] = static_cast<int>(args.masked ? g * args.rows : at < args.rows ? at : args.rows);
      if (blockIdx.x == 0 && args.masked_m != nullptr) {
        args.masked_m[g * args.masked_m_step] = static_cast<int>(count < room ? count : room);
      }
      if (blockIdx.x == 0 && args.offsets != nullptr) args.offsets[g * args.offsets_step] = places.begins[g];
    }
    __syncthreads();  // sums may be used again
  }
  if (threadIdx.x == 0) {
    places.begins[args.groups] = static_cast<int>(before < args.rows ? before : args.rows);
    if (blockIdx.x == 0 && args.offsets != nullptr) {
      args.offsets[args.groups * args.offsets_step] = places.begins[args.groups];
    }
  }
  __syncthreads();
  each_slot(args, begin, end, [&](long long slot, int id) {
    const unsigned same = __match_any_sync(~0u, id);
    int row = -1;
    if (id >= 0) {
      const long long rank = counts[id] + __popc(same & ((1u << lane) - 1));
      const long long at = places.begins[id] + rank;
      if (args.masked ? rank < args.rows : at < args.rows) row = static_cast<int>(at);
    }
    __syncwarp();
    if (id >= 0 && lane == __ffs(same) - 1) counts[id] += __popc(same);
    __syncwarp();
    if (slot < end) put(slot, row);
  });
  __syncthreads();
}

/// Of every row; after place(), whose last warp's counts hold the numbers of all rows of a group.
template <int kThreads>
__device__ void write_row_groups(const MoePermuteKernelArgs& args, const Places& places) {
  if (args.row_to_group == nullptr) return;
  const int* counts = places.counts + (kThreads / 32 - 1) * args.groups;
  for (long long r = threadIdx.x; r < args.rows; r += kThreads) {
    int low = 0, high = args.groups;  // the last group that begins at r or before
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (places.begins[middle] <= r ? low : high) = middle;
    }
    const bool inside = r < places.begins[args.groups] && r < places.begins[low] + static_cast<long long>(counts[low]);
    args.row_to_group[r * args.row_to_group_step] = inside ? low : -1;
  }
}

/// Piece `piece` of token t's row, kPermuteThreads words, to the rows that row_of(t, slot) names.
template <class Word, class RowOf>
__device__ __forceinline__ void copy_piece(const MoePermuteKernelArgs& args, long long t, long long piece,
                                           const RowOf& row_of) {
  const auto place = [&](int row, long long group_step, long long row_step) {
    if (!args.masked) return row * row_step;
    const Quotient at = divide(row, args.rows);
    return at.quotient * group_step + at.rest * row_step;
  };
  const long long at = (piece * kPermuteThreads + threadIdx.x) * static_cast<long long>(sizeof(Word));
  if (at < args.width) {
    const Word word = *reinterpret_cast<const Word*>(static_cast<const char*>(args.x) + t * args.x_row + at);
    for (int s = 0; s < args.top_k; ++s) {
      const int row = row_of(t, s);
      if (row < 0) continue;
      *reinterpret_cast<Word*>(static_cast<char*>(args.out) + place(row, args.out_group, args.out_row) + at) = word;
    }
  }
  if (piece != 0 || args.x_scale == nullptr) return;
  for (long long i = threadIdx.x; i < args.scales; i += kPermuteThreads) {
    const unsigned scale = args.x_scale[t * args.x_scale_row + i * args.x_scale_column];
    for (int s = 0; s < args.top_k; ++s) {
      const int row = row_of(t, s);
      if (row < 0) continue;
      args.out_scale[place(row, args.out_scale_group, args.out_scale_row) + i * args.out_scale_column] = scale;
    }
  }
}

template <class Word, class RowOf>
__device__ __forceinline__ void copy_rows(const MoePermuteKernelArgs& args, const RowOf& row_of) {
  constexpr long long kPiece = kPermuteThreads * static_cast<long long>(sizeof(Word));
  const long long pieces = args.width > kPiece ? (args.width + kPiece - 1) / kPiece : 1;
  for (long long item = blockIdx.x; item < args.tokens * pieces; item += gridDim.x) {
    const Quotient at = divide(item, pieces);
    copy_piece<Word>(args, at.quotient, at.rest, row_of);
  }
}

__device__ __forceinline__ int& slot_row(const MoePermuteKernelArgs& args, long long t, long long slot) {
  return args.slot_to_row[t * args.slot_to_row_row + slot];
}

/// One block.
template <int kThreads>
__device__ void moe_place(const MoePermuteKernelArgs& args, int* shared) {
  const Places places{shared, shared + kThreads / 32 * args.groups};
  place<kThreads>(args, places, [&](long long slot, int row) {
    const Quotient at = divide(slot, args.top_k);
    slot_row(args, at.quotient, at.rest) = row;
  });
  write_row_groups<kThreads>(args, places);
}

/// After moe_place.
template <class Word>
__device__ void moe_copy(const MoePermuteKernelArgs& args) {
  copy_rows<Word>(args, [&](long long t, int slot) { return slot_row(args, t, slot); });
}

/// Both for up to kPermuteMostSlots slots: every block finds the places of all of them.
template <class Word>
__device__ void moe_permute(const MoePermuteKernelArgs& args, int* shared) {
  __shared__ int rows[kPermuteMostSlots];
  const Places places{shared, shared + kPermuteThreads / 32 * args.groups};
  place<kPermuteThreads>(args, places, [&](long long slot, int row) {
    rows[slot] = row;
    const Quotient at = divide(slot, args.top_k);
    if (blockIdx.x == 0) slot_row(args, at.quotient, at.rest) = row;
  });
  if (blockIdx.x == 0) write_row_groups<kPermuteThreads>(args, places);
  copy_rows<Word>(args, [&](long long t, int slot) { return rows[t * args.top_k + slot]; });
}

}  // namespace fathom::simt
