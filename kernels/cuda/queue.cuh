/* A warp's queue of candidates in shared memory, offsets from the stretch's first page in flat order: those of
 * several tiles or blocks wait there until 32 lanes have one each. */

/* Blocks that an SM is to hold, by their registers. Left alone, ptxas picks a number itself, and spills for it. With a
 * budget there are too many registers for a fourth. */
#define GS_SCAN_BLOCKS_PER_SM 4
#define GS_BUDGET_BLOCKS_PER_SM 3

/* Give the candidates that fill warps to visit(flat, is_candidate), which all lanes call together, in flat order,
 * and with is_last the rest; what still waits moves to the front. Return how many were given. All lanes, which
 * see what each of them queued only after a barrier: the caller's. */
template <typename Visit>
static __device__ __forceinline__ u32 serve_queue(u32* queue, u32* n_queued, i64 lo, bool is_last,
                                                  Visit& visit) {
  u32 served = 0;
  while (served + (is_last ? 1u : GS_LANES) <= *n_queued) {
    const bool is_candidate = served + lane_id() < *n_queued;
    visit(lo + (is_candidate ? queue[served + lane_id()] : 0), is_candidate);
    served = min(served + GS_LANES, *n_queued);
  }
  *n_queued -= served;
  const u32 waiting = lane_id() < *n_queued ? queue[served + lane_id()] : 0;
  __syncwarp();
  if (lane_id() < *n_queued) queue[lane_id()] = waiting;
  __syncwarp();
  return served;
}

/* The visit of the scans. */
template <bool kBudget>
struct Claim {
  const Store& store;
  const Cuts& cuts;
  Stage& stage;
  __device__ __forceinline__ void operator()(i64 flat, bool is_candidate) {
    claim_candidates<kBudget>(store, cuts, stage, flat, is_candidate);
  }
};
