// The split of paged_mqa_logits' work among workers.
#pragma once
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// The unit of work: this many keys of one request.
inline constexpr std::int64_t kPagedMqaSplitKeys = 256;

struct PagedMqaScheduleProblem {
  static constexpr std::string_view op = "paged_mqa_schedule";
  std::int64_t batch = 1;
  std::int64_t next_n = 1;
  std::int64_t workers = 2;

  template <class V>
  void fields(V& visit) {
    visit("batch", batch);
    visit("next_n", next_n);
    visit("workers", workers);
  }
  bool operator==(const PagedMqaScheduleProblem&) const = default;
};

struct PagedMqaScheduleArgs {
  TensorView context_lens;  // [batch, next_n]
  TensorView schedule;      // [workers + 1, 2], written
};

/// Deals the splits of all requests, in order, to the workers, in equal shares (the first workers get one
/// more). Request b has ceil(max_i context_lens[b, i] / 256) splits.
///
///   context_lens  [batch, next_n]   i32; negative counts as 0
///   schedule      [workers + 1, 2]  i32, contiguous; row w: the request and the split where worker w starts;
///                                   it ends where the next one starts. The last row is (batch, 0).
///
/// Throws InvalidArgument if a shape or dtype differs.
void paged_mqa_schedule(const PagedMqaScheduleArgs& args, const Context& context);

}  // namespace fathom
