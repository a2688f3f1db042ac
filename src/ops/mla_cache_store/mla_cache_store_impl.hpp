// The implementations of mla_cache_store.
#pragma once
#include "fathom/ops/mla_cache_store.hpp"

namespace fathom {
void mla_cache_store_ref(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args,
                         const Context& context);
void mla_cache_store_cpu(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args,
                         const Context& context);
void mla_cache_store_simt(const MlaCacheStoreProblem& problem, const MlaCacheStoreArgs& args,
                          const Context& context);
}  // namespace fathom
