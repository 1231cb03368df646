// Stable sort of the rows of an array, with indices.
#pragma once

#include <span>

#include "deepseek/routines.h"

namespace deepseek {

// Dtype codes are positions in this list.
inline constexpr std::string_view kSortDtypes[] = {
    "bool",   "int8",   "int16",   "int32",    "int64",   "uint8",  "uint16",
    "uint32", "uint64", "float16", "bfloat16", "float32", "float64"};

extern const Routine kSort;

}  // namespace deepseek
