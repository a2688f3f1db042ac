// The options that several commands share.
#pragma once
#include <string>

#include "fathom/core/context.hpp"

namespace CLI {
class App;
}

namespace fathom::cli {

/// --threads
struct ThreadArgument {
  int threads = -1;  // -1: as FATHOM_THREADS says
  void add_to(CLI::App& command);
  /// The options of the environment, with the threads given here. Throws InvalidArgument.
  ContextOptions options() const;
};

}  // namespace fathom::cli
