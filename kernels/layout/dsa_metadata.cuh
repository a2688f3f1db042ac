// What the host and the kernel that writes a step's metadata agree on. Compiled by both.
#pragma once
#include "layout/cache.cuh"

namespace fathom {

/// Outputs without an address are not wanted.
struct DsaMetadataKernel {
  SimtIntegers prefix_lens;
  SimtIntegers extend_lens;  // none: next_n rows of every request
  SimtIntegers request_ids;  // none: 0, 1, 2, ...
  BlockTable page_table;
  int* cache_seqlens;
  int* cu_seqlens_q;
  int* cu_seqlens_k;
  int* positions;
  int* slots;
  int* requests;
  int* seqlens_expanded;
  int* topk_lens;
  int* cu_topk_lens;
  int* ks;
  int* ke;
  int* score_ends;
  int* block_table;
  int* row_block_table;
  int* schedule;
  long long batch, rows, next_n, paged_batch, max_pages, page_tokens, index_topk, workers;
  int extend;  // the mode
};

}  // namespace fathom
