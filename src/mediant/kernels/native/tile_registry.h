// What a file tiles_NAME.cpp needs beside its `Lanes`: it ends with MEDIANT_TILES(NAME, rank) and is known from then on,
// so that adding an instruction set touches no other file. Its first line may state flags for the compiler
// (CMakeLists.txt reads it).
#pragma once

#include <cstddef>
#include <cstdint>

#include "packed_matrix.h"

#ifndef MEDIANT_TILE_INLINE
#define MEDIANT_TILE_INLINE inline __attribute__((always_inline))
#endif

namespace mediant {

struct TileRegistration {
    explicit TileRegistration(const TileKernels *kernels);
    const TileKernels *kernels;
    const TileRegistration *next;
};

}  // namespace mediant

#define MEDIANT_TILES(name, rank)                                                                                   \
    static const ::mediant::TileKernels kernels_##name{#name, rank, &available, &prepare, &rotate, &multiply};       \
    static const ::mediant::TileRegistration registered_##name{&kernels_##name};
