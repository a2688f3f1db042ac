#include "fathom/ops/mqa_logits.hpp"

#include "ops/op_test.hpp"
