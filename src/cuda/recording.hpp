// What a launch keeps with the graph that it is recorded in.
#pragma once
#include <memory>

#include "cuda/device_context.hpp"

namespace fathom::cuda {

/// The graph that the context's stream records now, or none.
GraphHandle recorded_graph(const Context& context);

/// Lets go of `value` when the graph, whatever was made from it and their last launches are gone. That
/// happens on a thread of the driver, so the value's destructor calls nothing of CUDA. Throws CudaError.
void keep_with(GraphHandle graph, std::shared_ptr<const void> value, const Context& context);

}  // namespace fathom::cuda
