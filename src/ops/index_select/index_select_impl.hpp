// The implementations of index_select.
#pragma once
#include "fathom/ops/index_select.hpp"
#include "fathom/ops/mqa_logits.hpp"
#include "fathom/ops/paged_mqa_logits.hpp"
#include "ops/dispatch.hpp"

namespace fathom {
void index_select_ref(const IndexSelectProblem& problem, const IndexSelectArgs& args, const Context& context);
/// The two ops on chunk after chunk, wherever the tensors are.
void index_select_chain(const IndexSelectProblem& problem, const IndexSelectArgs& args,
                        const Context& context);

/// The calls for rows [begin, end), with `scores` between them.
MqaLogitsArgs index_select_ragged(const IndexSelectArgs& args, std::int64_t begin, std::int64_t end,
                                  const TensorView& scores);
PagedMqaLogitsArgs index_select_paged(const IndexSelectProblem& problem, const IndexSelectArgs& args,
                                      std::int64_t begin, std::int64_t end, const TensorView& scores);
TopKArgs index_select_top_k(const IndexSelectProblem& problem, const IndexSelectArgs& args,
                            std::int64_t begin, std::int64_t end, const TensorView& scores);
}  // namespace fathom
