#include <cstdio>

#include "fathom/core/op_info.hpp"

int main() {
  for (const fathom::OpInfo* info : fathom::all_ops()) std::printf("%s\n", info->example.c_str());
}
