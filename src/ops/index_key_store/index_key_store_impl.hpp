// The implementations of index_key_store.
#pragma once
#include "fathom/ops/index_key_store.hpp"

namespace fathom {
void index_key_store_ref(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args,
                         const Context& context);
void index_key_store_cpu(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args,
                         const Context& context);
void index_key_store_simt(const IndexKeyStoreProblem& problem, const IndexKeyStoreArgs& args,
                          const Context& context);
}  // namespace fathom
