#include "fathom/ops/paged_mqa_logits.hpp"

#include "ops/op_test.hpp"
