// The implementations of dsa_metadata.
#pragma once
#include "fathom/ops/dsa_metadata.hpp"

namespace fathom {
void dsa_metadata_ref(const DsaMetadataProblem& problem, const DsaMetadataArgs& args, const Context& context);
void dsa_metadata_simt(const DsaMetadataProblem& problem, const DsaMetadataArgs& args,
                       const Context& context);
}  // namespace fathom
