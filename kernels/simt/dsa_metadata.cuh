// The metadata of a step in one launch. Block 0 writes what belongs to requests and rows, and the schedule; the blocks
// after it copy block tables and need nothing of it: whoever needs a running sum takes it over the requests again.
#pragma once
#include "layout/dsa_metadata.cuh"
#include "simt/cache.cuh"
#include "simt/scan.cuh"

namespace fathom::simt {

/// What request b brings. A request of padding has no token; unpacked, it has rows all the same.
struct DsaShare {
  long long prefix, tokens, rows;
  __device__ long long length() const { return prefix < 0 ? 0 : prefix + tokens; }
  /// The sum of min(prefix + i, most) over its first `count` tokens, i = 1, 2, ...
  __device__ long long chosen(long long count, long long most) const {
    if (prefix < 0) return 0;
    const long long room = most > prefix ? most - prefix : 0;
    const long long all = room < count ? room : count;  // tokens that see at most `most`
    return all * prefix + all * (all + 1) / 2 + (count - all) * most;
  }
};

__device__ __forceinline__ DsaShare dsa_share(const DsaMetadataKernel& args, long long b) {
  DsaShare share{integer_at(args.prefix_lens, b), args.next_n, args.next_n};
  if (args.extend_lens.data != nullptr) {
    const long long given = integer_at(args.extend_lens, b);
    share.tokens = given > 0 ? given : 0;
    share.rows = share.prefix < 0 ? 0 : share.tokens;
  }
  return share;
}

__device__ __forceinline__ long long dsa_page(const DsaMetadataKernel& args, long long b, long long index) {
  const long long sequence = args.request_ids.data != nullptr ? integer_at(args.request_ids, b) : b;
  return page_at(args.page_table, sequence, index, 1ll << 31);
}

/// Row `row` sees `length` positions of request b, whose keys begin at `keys` among all; `chosen` entries are attended
/// to by the rows up to this one.
__device__ __forceinline__ void dsa_row(const DsaMetadataKernel& args, long long row, long long b, long long length,
                                        long long keys, long long chosen) {
  const long long position = length > 0 ? length - 1 : 0;
  const long long page = length > 0 ? dsa_page(args, b, position / args.page_tokens) : -1;
  args.positions[row] = static_cast<int>(position);
  const long long slot = page * args.page_tokens + position % args.page_tokens;
  args.slots[row] = page < 0 || slot >= 1ll << 31 ? -1 : static_cast<int>(slot);
  args.requests[row] = static_cast<int>(b);
  args.seqlens_expanded[row] = static_cast<int>(length);
  args.topk_lens[row] = static_cast<int>(length < args.index_topk ? length : args.index_topk);
  args.cu_topk_lens[row + 1] = static_cast<int>(chosen);
  if (args.extend) {
    const long long start = length > 0 ? keys : 0;
    args.ks[row] = static_cast<int>(start);
    args.ke[row] = static_cast<int>(start + length);
    args.score_ends[row] = static_cast<int>(length > args.index_topk ? start + length : start);
  }
}

__device__ inline void dsa_rows(const DsaMetadataKernel& args) {
  __shared__ long long sums[3][kRowThreads / 32];
  __shared__ long long first_row[kRowThreads];  // of the requests at hand, 256 at a time
  __shared__ long long keys_before[kRowThreads];
  __shared__ long long chosen_before[kRowThreads];
  const int thread = static_cast<int>(threadIdx.x);
  long long rows = 0, keys = 0, chosen = 0;  // of the requests before
  for (long long first = 0; first < args.batch; first += kRowThreads) {
    const long long b = first + thread;
    const DsaShare share = b < args.batch ? dsa_share(args, b) : DsaShare{-1, 0, 0};
    long long all_rows, all_keys, all_chosen;
    const long long of_rows = inclusive_sum<kRowThreads>(share.rows, sums[0], all_rows);
    const long long of_keys = inclusive_sum<kRowThreads>(share.length(), sums[1], all_keys);
    const long long own = share.chosen(share.tokens, args.index_topk);
    const long long of_chosen = inclusive_sum<kRowThreads>(own, sums[2], all_chosen);
    first_row[thread] = rows + of_rows - share.rows;
    keys_before[thread] = keys + of_keys - share.length();
    chosen_before[thread] = chosen + of_chosen - own;
    if (b < args.batch) {
      args.cache_seqlens[b] = static_cast<int>(share.length());
      args.cu_seqlens_k[b + 1] = static_cast<int>(keys + of_keys);
      if (args.extend) args.cu_seqlens_q[b + 1] = static_cast<int>(rows + of_rows);
    }
    __syncthreads();
    const long long end = rows + all_rows < args.rows ? rows + all_rows : args.rows;
    for (long long row = rows + thread; row < end; row += kRowThreads) {
      int at = 0;  // the last request that begins at this row or before: it has rows, those without end before it
#pragma unroll
      for (int step = kRowThreads / 2; step > 0; step /= 2) {
        if (first + at + step < args.batch && first_row[at + step] <= row) at += step;
      }
      const DsaShare owner = dsa_share(args, first + at);
      const long long token = row - first_row[at];
      const long long length = owner.prefix < 0 ? 0 : owner.prefix + token + 1;
      dsa_row(args, row, first + at, length, keys_before[at],
              chosen_before[at] + owner.chosen(token + 1, args.index_topk));
    }
    rows += all_rows;
    keys += all_keys;
    chosen += all_chosen;
    __syncthreads();  // the shared arrays are written again
  }
  for (long long row = rows + thread; row < args.rows; row += kRowThreads) dsa_row(args, row, 0, 0, 0, chosen);
  if (!args.extend) {
    for (long long row = thread; row <= args.rows; row += kRowThreads) args.cu_seqlens_q[row] = static_cast<int>(row);
  }
  if (thread == 0) {
    args.cu_seqlens_k[0] = args.cu_topk_lens[0] = 0;
    if (args.extend) args.cu_seqlens_q[0] = 0;
  }
}

/// Block tables of request b and of its rows; b = batch: those of the rows behind the last.
__device__ inline void dsa_tables(const DsaMetadataKernel& args, long long b) {
  const bool real = b < args.batch;
  const DsaShare share = real ? dsa_share(args, b) : DsaShare{-1, 0, 0};
  const long long used = (share.length() + args.page_tokens - 1) / args.page_tokens;
  long long begin = 0, end = 0;
  if (args.row_block_table != nullptr) {
    begin = block_sum(b, [&](long long i) { return dsa_share(args, i).rows; });
    end = real ? begin + share.rows : args.rows;
    if (end > args.rows) end = args.rows;
  }
  for (long long i = threadIdx.x; i < args.max_pages; i += kRowThreads) {
    const int page = i < used ? static_cast<int>(dsa_page(args, b, i)) : -1;
    if (real && args.block_table != nullptr) args.block_table[b * args.max_pages + i] = page;
    for (long long row = begin; row < end; ++row) args.row_block_table[row * args.max_pages + i] = page;
  }
}

__device__ inline void dsa_metadata(const DsaMetadataKernel& args) {
  if (blockIdx.x > 0) {
    for (long long b = blockIdx.x - 1; b <= args.batch; b += gridDim.x - 1) dsa_tables(args, b);
    return;
  }
  dsa_rows(args);
  if (args.schedule == nullptr) return;
  __syncthreads();  // the lengths of all rows are there
  paged_mqa_schedule({args.seqlens_expanded, args.next_n, 1, args.schedule, args.paged_batch, args.next_n,
                      args.workers});
}

}  // namespace fathom::simt
