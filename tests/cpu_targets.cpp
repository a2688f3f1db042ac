// Prints the instruction sets this machine has, one a line: ctest runs the op tests once for each.
#include <cstdio>

#include "fathom/core/context.hpp"

int main() {
  for (const std::string_view name : fathom::cpu_targets()) std::puts(std::string(name).c_str());
}
