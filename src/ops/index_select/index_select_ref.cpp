#include <vector>

#include "ops/index_select/index_select_impl.hpp"
#include "ops/mqa_logits/mqa_logits_impl.hpp"
#include "ops/paged_mqa_logits/paged_mqa_logits_impl.hpp"
#include "ops/top_k/top_k_impl.hpp"

namespace fathom {

// All scores at once: the workspace does not matter.
void index_select_ref(const IndexSelectProblem& problem, const IndexSelectArgs& args,
                      const Context& context) {
  std::vector<float> memory(static_cast<std::size_t>(problem.rows * problem.columns));
  const TensorView scores =
      TensorView::contiguous(memory.data(), DType::f32, {problem.rows, problem.columns});
  if (problem.paged) {
    const PagedMqaLogitsArgs logits = index_select_paged(problem, args, 0, problem.rows, scores);
    paged_mqa_logits_ref(paged_mqa_logits_validate(logits, context.device()), logits, context);
  } else {
    const MqaLogitsArgs logits = index_select_ragged(args, 0, problem.rows, scores);
    mqa_logits_ref(mqa_logits_validate(logits, context.device()), logits, context);
  }
  const TopKArgs choice = index_select_top_k(problem, args, 0, problem.rows, scores);
  top_k_ref(top_k_validate(choice, context.device()), choice, context);
}

}  // namespace fathom
