// The commit that this program was built from, for the files that benches write.
#pragma once
#include <string_view>

namespace fathom {

/// As `git describe --always --dirty` named it at the build; "unknown" in an archive without a repository.
std::string_view built_from_commit();

}  // namespace fathom
