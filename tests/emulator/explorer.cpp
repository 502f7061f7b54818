// Runs kernels in every order of their steps that can make a difference: dynamic partial-order reduction.
//
// An actor is a warp (or, where lanes are apart, a lane). Its steps are its accesses to memory that another actor may
// touch at the same time; what it does in between is nobody else's business and done at once. An execution is replayed
// from the start by the actors' turns, nothing of it is kept. Which turns are tried is source-DPOR with sleep sets
// (Abdulla, Aronis, Jonsson, Sagonas: "Optimal Dynamic Partial Order Reduction", POPL 2014, algorithm 1), a refinement of
// Flanagan and Godefroid's (POPL 2005): of executions that differ in the order of independent steps, one is completed.
//
// Kernels come here through the calls that g++ puts before their accesses for -fsanitize=thread; its runtime is not there.
// docs/emulator.md says what is a step, which steps are independent, and what is not shown.

#include "scheduler.h"

#include <algorithm>
#include <bitset>
#include <dlfcn.h>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace emulator {
namespace {

constexpr unsigned kMostActors = 256;
constexpr unsigned kLateOfActor = 24;  // stores under way that an actor may have had, where stores may be late
constexpr unsigned kMostSteps = 100000;
constexpr unsigned kGrain = 4;  // bytes that are watched together
constexpr unsigned kNobody = ~0u;

enum Kind : unsigned { kPlainLoad, kPlainStore, kLoad, kStore, kExchange, kCompare, kAdd, kSub, kAnd, kOr, kXor, kMax, kMin };

// What a step does to others at its place. Two that read are independent; so are two updates of one kind where
// nobody looks at what they return. An update that changes nothing reads.
enum Class : unsigned { kReads, kWrites, kCommutes /* + Kind */ };

struct Access {
    char* address;
    unsigned n_bytes;
    Kind kind;
    uint64_t value, expected;
    const void* site;  // where in the machine code
};

struct Clock {
    uint16_t of[kMostActors];  // segments of each actor that come before; a step or a meeting ends one
};

struct Event {
    Access access;
    size_t at;  // in all memory that is watched
    unsigned actor, segment, cls, lane;
    uint64_t before, after;
    Clock clock;
};

struct Actor {
    Block* block;
    Warp* warp;
    unsigned lane, launch;  // the lane where lanes are apart
    Fiber* at;              // stands before a step
    Access pending;
    size_t pending_at;
    Clock clock;
    // Of stores that may be late:
    Fiber* poster;       // whose store this is
    bool is_under_way;   // it is not done
    unsigned n_posted;  // by this actor
    Fiber* waits;        // for stores of its own
    bool waits_for_all;  // else for those at the place where it stands
};

struct Node {
    std::bitset<kMostActors> backtrack, done, sleep;
    unsigned chosen;
};

struct Seen {
    unsigned actor, segment, cls;
};

struct Cell {  // kGrain bytes
    uint32_t execution;
    bool is_visible;
    std::vector<Seen> seen;  // the last access of each kind by each actor that is not ordered before all since
};

}  // namespace

// The interface to tests/emulator/explorer.py.
struct GivenLaunch {
    const char* kernel;
    void (*call)(void** arguments);
    void** arguments;
    unsigned grid[3], block[3];
};
struct Given {
    unsigned n_launches;
    const GivenLaunch* launches;
    char *memory, *shared;  // shared memory as the kernels' module has it
    size_t memory_bytes, watched_bytes, shared_bytes;
    uint64_t seed, most_executions;
    bool lanes_apart, stores_may_be_late, is_reduced, is_serial, are_all_accesses_steps;
    bool (*is_wrong)(const char* memory, const char* error);
};
struct Counts {
    uint64_t n_executions, n_cut, n_traces, n_steps, n_visible, n_restarts, n_ends;
    bool is_exhausted;
};
struct Step {
    unsigned launch, block, warp, lane, kind, n_bytes;
    bool is_late, is_shared;
    uint64_t at, before, after;
    const void* site;
};
struct End {
    std::string memory, error;
    uint64_t n_executions = 0;
    bool is_wrong = false;
    unsigned n_switches = ~0u;
    std::vector<Step> schedule;
};

namespace {

uint64_t load_word(const char* address, unsigned n_bytes) {
    uint64_t word = 0;
    memcpy(&word, address, n_bytes < 8 ? n_bytes : 8);
    return word;
}

uint64_t updated(Kind kind, uint64_t old, uint64_t value, uint64_t expected) {
    switch (kind) {
    case kStore:
    case kExchange: return value;
    case kCompare: return old == expected ? value : old;
    case kAdd: return old + value;
    case kSub: return old - value;
    case kAnd: return old & value;
    case kOr: return old | value;
    case kXor: return old ^ value;
    case kMax: return old < value ? value : old;
    case kMin: return value < old ? value : old;
    default: return old;
    }
}

uint64_t cut_to(uint64_t word, unsigned n_bytes) { return n_bytes < 8 ? word & ((1ull << 8 * n_bytes) - 1) : word; }

uint64_t perform(const Access& access) {
    uint64_t old = load_word(access.address, access.n_bytes);
    if (access.kind >= kStore) {
        uint64_t left = updated(access.kind, old, access.value, access.expected);
        memcpy(access.address, &left, access.n_bytes);
    }
    return old;
}

bool are_dependent(unsigned one, unsigned other) {
    if (one == kReads && other == kReads) return false;
    return one < kCommutes || one != other;
}

class Explorer {
public:
    Given given{};
    Counts counts{};
    std::vector<End> ends;
    bool is_running = false;
    const void* last_site = nullptr;

    void explore() {
        is_running = true;
        set_up();
        for (bool again = true; again;) {
            again = false;
            const uint64_t n_restarts = counts.n_restarts;
            counts = {};
            counts.n_restarts = n_restarts;
            nodes.clear();
            ends.clear();
            end_numbers.clear();
            traces.clear();
            do {
                finds = false;
                run_execution();
                if (finds) break;
                if (counts.n_executions + counts.n_cut >= given.most_executions) break;
            } while (next_turns());
            counts.is_exhausted = nodes.empty() && !finds;
            if (finds) {
                counts.n_restarts++;
                again = true;
            }
        }
        for (const Cell& cell : cells) counts.n_visible += cell.is_visible;
        counts.n_traces = traces.size();
        counts.n_ends = ends.size();
        is_running = false;
    }

    bool watches(const void* address) const {
        const char* at = static_cast<const char*>(address);
        return (at >= given.memory && at < given.memory + given.watched_bytes) ||
               (at >= given.shared && at < given.shared + given.shared_bytes);
    }

    // An access of a kernel, before it happens; returns what was there.
    uint64_t visit(const Access& access) {
        const uint64_t old = visited(access);
        last_site = access.site;  // others ran meanwhile
        return old;
    }

private:
    uint64_t visited(const Access& access) {
        size_t at = 0;
        const bool is_watched = is_running && place_of(access.address, &at);
        if (!is_watched) return access.kind >= kLoad ? perform(access) : 0;
        Fiber* self = current_fiber();
        Actor& actor = actors[self->actor];
        if (!is_visible(at, access.n_bytes)) {
            uint64_t old = load_word(access.address, access.n_bytes);
            note(self->actor, at, access.n_bytes, class_of(access, old));
            return access.kind >= kLoad ? perform(access) : old;
        }
        if (given.stores_may_be_late && at < given.watched_bytes) {
            if (is_postable(access)) {
                post(self, access, at);
                return 0;
            }
            wait_for_stores(self, false, at, access.n_bytes);
        }
        actor.pending = access;
        actor.pending_at = at;
        actor.at = self;
        switch_context(self, &self->block->starter, false);
        uint64_t old = load_word(access.address, access.n_bytes);
        happens(self->actor, access, at, old, self->lane);
        if (access.kind >= kLoad) perform(access);
        return old;
    }

public:
    void fence() {
        if (is_running && given.stores_may_be_late) wait_for_stores(current_fiber(), true, 0, 0);
    }

    void looked_at(const void* site) {
        if (is_running && looked.insert(site).second) finds = true;
    }

    void met(const std::vector<unsigned>& who) {
        Clock all{};
        for (unsigned each : who) join(&all, actors[each].clock);
        for (unsigned each : who) {
            const unsigned segment = actors[each].clock.of[each];
            join(&actors[each].clock, all);
            actors[each].clock.of[each] = segment + 1;
        }
    }

private:
    std::vector<Block*> blocks;
    std::vector<Launch> launches;
    std::vector<std::string> shared_of_block;
    Block* current = nullptr;
    std::vector<Actor> actors;
    unsigned n_base = 0;  // actors that are no late stores
    std::vector<Cell> cells;
    uint32_t execution = 0;
    std::string first_memory, first_shared;
    std::vector<Node> nodes;
    std::vector<Event> events;
    size_t n_known = 0;  // steps whose races were looked at in an earlier execution
    unsigned last_actor = kNobody;
    bool finds = false;  // something to watch that was not known
    std::unordered_set<const void*> looked;
    std::unordered_map<std::string, size_t> end_numbers;
    std::unordered_set<std::string> traces;
#if defined(EMULATOR_UCONTEXT)
    std::vector<ucontext_t> starters;
#endif

    // Once per exploration.

    void set_up() {
        for (unsigned i = 0; i < given.n_launches; i++) {
            const GivenLaunch& each = given.launches[i];
            launches.push_back({each.kernel, each.call, each.arguments, {each.grid[0], each.grid[1], each.grid[2]},
                                {each.block[0], each.block[1], each.block[2]}, given.seed, given.lanes_apart});
        }
        for (unsigned i = 0; i < launches.size(); i++) {
            const Launch& launch = launches[i];
            for (unsigned number = 0; number < launch.grid.x * launch.grid.y * launch.grid.z; number++) {
                static std::vector<Block*> kept;  // with their stacks
                if (kept.size() == blocks.size()) kept.push_back(static_cast<Block*>(calloc(1, sizeof(Block))));
                Block* block = kept[blocks.size()];
                blocks.push_back(block);
                const unsigned n_threads = launch.block.x * launch.block.y * launch.block.z;
                for (unsigned thread = 0; thread < n_threads; thread += given.lanes_apart ? 1 : kLanes)
                    actors.push_back({block, &block->warps[thread / kLanes], thread % kLanes, i, nullptr, {}, 0, {}, nullptr,
                                      false, 0, nullptr, false});
            }
        }
        n_base = actors.size();
        if (given.stores_may_be_late) actors.resize(n_base * (1 + kLateOfActor));
        if (actors.size() > kMostActors) {
            fprintf(stderr, "the explorer has room for %u actors, not %zu\n", kMostActors, actors.size());
            abort();
        }
        first_memory.assign(given.memory, given.memory_bytes);
        uint64_t random = given.seed;
        for (size_t i = 0; i < given.shared_bytes; i++) first_shared += char(next_random(&random));
        shared_of_block.assign(blocks.size(), first_shared);
        cells.resize((given.watched_bytes + blocks.size() * given.shared_bytes) / kGrain + blocks.size() + 1);
#if defined(EMULATOR_UCONTEXT)
        starters.resize(blocks.size());
#endif
    }

    // Places.

    size_t number_of(const Block* block) const {
        return std::find(blocks.begin(), blocks.end(), block) - blocks.begin();
    }

    bool place_of(const char* address, size_t* at) const {
        if (address >= given.memory && address < given.memory + given.watched_bytes) {
            *at = address - given.memory;
            return true;
        }
        if (address < given.shared || address >= given.shared + given.shared_bytes) return false;
        *at = given.watched_bytes + number_of(current) * given.shared_bytes + (address - given.shared);
        return true;
    }

    uint64_t peek(size_t at, unsigned n_bytes) const {
        if (at < given.watched_bytes) return load_word(given.memory + at, n_bytes);
        const size_t number = (at - given.watched_bytes) / given.shared_bytes;
        const size_t offset = (at - given.watched_bytes) % given.shared_bytes;
        return load_word((blocks[number] == current ? given.shared : shared_of_block[number].data()) + offset, n_bytes);
    }

    bool is_visible(size_t at, unsigned n_bytes) const {
        for (size_t cell = at / kGrain; cell <= (at + n_bytes - 1) / kGrain; cell++)
            if (cells[cell].is_visible) return true;
        return false;
    }

    unsigned class_of(const Access& access, uint64_t old) const {
        switch (access.kind) {
        case kPlainLoad:
        case kLoad: return kReads;
        case kPlainStore: return kWrites;
        default: break;
        }
        if (access.kind >= kAdd && !looked.count(access.site)) return kCommutes + access.kind;
        const uint64_t left = cut_to(updated(access.kind, old, access.value, access.expected), access.n_bytes);
        return left == old ? kReads : kWrites;
    }

    // What comes before what.

    void join(Clock* clock, const Clock& other) const {
        for (unsigned i = 0; i < actors.size(); i++) clock->of[i] = std::max(clock->of[i], other.of[i]);
    }

    // An access to a place that nobody is known to race for: if somebody does, it is a step from now on.
    void note(unsigned self, size_t at, unsigned n_bytes, unsigned cls) {
        const Clock& clock = actors[self].clock;
        for (size_t number = at / kGrain; number <= (at + n_bytes - 1) / kGrain; number++) {
            Cell& cell = cells[number];
            if (cell.execution != execution) {
                cell.execution = execution;
                cell.seen.clear();
            }
            bool is_there = false;
            for (Seen& seen : cell.seen) {
                // A store may come later than the steps that would order it.
                const bool is_ordered = !given.stores_may_be_late || at >= given.watched_bytes;
                const bool is_before = seen.actor == self || (is_ordered && clock.of[seen.actor] >= seen.segment);
                const bool is_raced_for = !is_before && are_dependent(seen.cls, cls);
                if (is_raced_for || (given.are_all_accesses_steps && seen.actor != self)) cell.is_visible = finds = true;
                if (seen.actor == self && seen.cls == cls) {
                    seen.segment = clock.of[self];
                    is_there = true;
                }
            }
            if (!is_there) cell.seen.push_back({self, clock.of[self], cls});
        }
    }

    static bool overlap(size_t one, unsigned n_bytes, size_t other, unsigned n_other) {
        return one < other + n_other && other < one + n_bytes;
    }

    // A step is taken: order it after those that it depends on, and see where it might have come earlier.
    void happens(unsigned self, const Access& access, size_t at, uint64_t old, unsigned lane) {
        Actor& actor = actors[self];
        events.push_back({access, at, self, actor.clock.of[self], class_of(access, old), lane, old, old, actor.clock});
        Event& event = events.back();
        if (access.kind >= kStore) event.after = cut_to(updated(access.kind, old, access.value, access.expected), access.n_bytes);
        std::vector<unsigned> races;
        for (size_t i = events.size() - 1; i-- > 0;) {
            const Event& earlier = events[i];
            if (!are_dependent(earlier.cls, event.cls) || earlier.actor == self) continue;
            if (!overlap(earlier.at, earlier.access.n_bytes, at, access.n_bytes)) continue;
            if (event.clock.of[earlier.actor] < earlier.segment) races.push_back(i);
            join(&event.clock, earlier.clock);
        }
        actor.clock = event.clock;
        actor.clock.of[self]++;
        if (!given.is_reduced || events.size() <= n_known) return;
        for (unsigned earlier : races) reverse(earlier);
    }

    bool is_before(const Event& one, const Event& other) const {
        return other.clock.of[one.actor] >= one.segment;
    }

    // The last step races with an earlier one: let somebody begin there who leads to it without the earlier one.
    void reverse(unsigned earlier) {
        std::bitset<kMostActors> came, initials;
        std::vector<unsigned> without;
        for (unsigned i = earlier + 1; i < events.size(); i++) {
            const bool is_last = i + 1 == events.size();
            if (!is_last && is_before(events[earlier], events[i])) continue;
            bool is_first = !came[events[i].actor];
            for (unsigned other : without) is_first = is_first && !is_before(events[other], events[i]);
            if (is_first) initials.set(events[i].actor);
            came.set(events[i].actor);
            without.push_back(i);
        }
        Node& node = nodes[earlier];
        if ((initials & (node.backtrack | node.sleep)).any()) return;
        node.backtrack.set(initials._Find_first());
    }

    // Stores that are under way.

    bool is_postable(const Access& access) const {
        return access.kind == kStore || (access.kind >= kAdd && !looked.count(access.site));
    }

    void post(Fiber* self, const Access& access, size_t at) {
        wait_for_stores(self, false, at, access.n_bytes);
        Actor& actor = actors[self->actor];
        if (actor.n_posted == kLateOfActor) misuse("has more stores under way than the explorer has room for");
        const unsigned number = n_base + self->actor * kLateOfActor + actor.n_posted++;
        Actor& late = actors[number];
        late = actor;
        late.poster = late.at = self;
        late.is_under_way = true;
        late.pending = access;
        late.pending_at = at;
        late.clock = actor.clock;
        late.clock.of[number] = 1;
        actor.clock.of[self->actor]++;
    }

    // Those that it is about to wait for, or waited for.
    template <typename Visit>
    void visit_stores(const Fiber* fiber, bool all, size_t at, unsigned n_bytes, Visit visit) {
        const unsigned first = n_base + fiber->actor * kLateOfActor;
        for (unsigned i = first; i < first + actors[fiber->actor].n_posted; i++) {
            const Actor& late = actors[i];
            if (late.poster == fiber && (all || overlap(late.pending_at, late.pending.n_bytes, at, n_bytes))) visit(late);
        }
    }

    bool has_stores(const Fiber* fiber, bool all, size_t at, unsigned n_bytes) {
        bool has = false;
        visit_stores(fiber, all, at, n_bytes, [&](const Actor& late) { has = has || late.is_under_way; });
        return has;
    }

    // Let a lane go on after its own stores: all of them, or those at a place.
    void wait_for_stores(Fiber* self, bool all, size_t at, unsigned n_bytes) {
        Actor& actor = actors[self->actor];
        if (has_stores(self, all, at, n_bytes)) {
            actor.waits = self;
            actor.waits_for_all = all;
            actor.pending_at = at;
            actor.pending.n_bytes = n_bytes;
            switch_context(self, &self->block->starter, false);
        }
        visit_stores(self, all, at, n_bytes, [&](const Actor& late) { join(&actor.clock, late.clock); });
    }

    void perform_late(unsigned number) {
        Actor& late = actors[number];
        late.at = nullptr;
        late.is_under_way = false;
        const uint64_t old = load_word(late.pending.address, late.pending.n_bytes);
        happens(number, late.pending, late.pending_at, old, late.poster->lane);
        perform(late.pending);
    }

    bool may_go_on(const Actor& actor) {
        return !actor.waits || !has_stores(actor.waits, actor.waits_for_all, actor.pending_at, actor.pending.n_bytes);
    }

    // Turns.

    void enter(Block* block) {
        if (block == current) return;
        if (current) memcpy(&shared_of_block[number_of(current)][0], given.shared, given.shared_bytes);
        memcpy(given.shared, shared_of_block[number_of(block)].data(), given.shared_bytes);
        current = block;
    }

    static Fiber* first_to_run(const Actor& actor, bool lanes_apart) {
        if (lanes_apart) return actor.warp->runnable >> actor.lane & 1 ? actor.warp->fiber[actor.lane] : nullptr;
        if (!actor.warp->runnable) return nullptr;
        unsigned lane = 0;
        while (!(actor.warp->runnable >> lane & 1)) lane = actor.warp->next_lane[lane];
        return actor.warp->fiber[lane];
    }

    void go_on(Actor& actor, Fiber* fiber) {
        enter(actor.block);
        actor.at = actor.waits = nullptr;
        switch_context(&actor.block->starter, fiber, false);
    }

    // Everybody goes on to the next step, or waits, or ends.
    void advance() {
        for (bool moves = true; moves;) {
            moves = false;
            for (unsigned i = 0; i < n_base; i++) {
                Actor& actor = actors[i];
                if (actor.at || !may_go_on(actor) || actor.block->failed) continue;
                Fiber* fiber = actor.waits ? actor.waits : first_to_run(actor, given.lanes_apart);
                if (!fiber) continue;
                go_on(actor, fiber);
                moves = true;
            }
        }
    }

    void begin_execution() {
        execution++;
        events.clear();
        current = nullptr;
        last_actor = kNobody;
        memcpy(given.memory, first_memory.data(), first_memory.size());
        for (std::string& shared : shared_of_block) shared = first_shared;
        unsigned first = 0;
        size_t number = 0;
        for (const Launch& launch : launches) {
            for (unsigned i = 0; i < launch.grid.x * launch.grid.y * launch.grid.z; i++) {
                Block* block = blocks[number++];
                if (!begin_block(block, &launch, i)) abort();
#if defined(EMULATOR_UCONTEXT)
                block->starter.stack_pointer = &starters[number - 1];
#endif
                for (unsigned thread = 0; thread < block->n_threads; thread++)
                    block->warps[thread / kLanes].fiber[thread % kLanes]->actor =
                        first + (given.lanes_apart ? thread : thread / kLanes);
                first += given.lanes_apart ? block->n_threads : block->n_warps;
            }
        }
        for (unsigned i = 0; i < actors.size(); i++) {
            Actor& actor = actors[i];
            actor.at = actor.poster = actor.waits = nullptr;
            actor.n_posted = 0;
            actor.clock = {};
            actor.clock.of[i] = 1;
        }
    }

    const char* error_of_a_block() {
        for (Block* block : blocks)
            if (block->failed) return block->error;
        return nullptr;
    }

    void run_execution() {
        begin_execution();
        n_known = nodes.empty() ? 0 : nodes.size() - 1;
        const char* error = nullptr;
        for (size_t depth = 0;; depth++) {
            advance();
            if ((error = error_of_a_block())) break;
            if (depth == kMostSteps) {
                error = "it does not end";
                break;
            }
            std::bitset<kMostActors> enabled;
            for (unsigned i = 0; i < actors.size(); i++) enabled[i] = actors[i].at != nullptr;
            if (enabled.none()) {
                for (Block* block : blocks)
                    if (!error && block->n_done < block->n_threads) {
                        say_divergence(block);
                        error = block->error;
                    }
                break;
            }
            if (depth == nodes.size() && !choose(enabled)) {
                counts.n_cut++;
                nodes.pop_back();
                return;
            }
            if (!enabled[nodes[depth].chosen]) {
                error = "it does not end as it did: somebody whose turn it is has no step to take";
                break;
            }
            take_turn(nodes[depth].chosen);
        }
        if (!finds) close(error ? error : "");
    }

    // A step that no earlier execution took after these: whose it is.
    bool choose(std::bitset<kMostActors> enabled) {
        Node node{};
        if (!nodes.empty()) {
            const Node& before = nodes.back();
            const Event& event = events.back();
            const std::bitset<kMostActors> sleepers = before.sleep | before.done;
            for (unsigned i = 0; i < actors.size(); i++)
                if (sleepers[i] && i != before.chosen && given.is_reduced) node.sleep[i] = sleeps_on(actors[i], event);
        }
        nodes.push_back(node);
        Node& made = nodes.back();
        const bool goes_on = last_actor != kNobody && enabled[last_actor];
        if (given.is_serial && goes_on) {
            made.backtrack.set(last_actor);
        } else if (!given.is_reduced) {
            made.backtrack = enabled;
        }
        const std::bitset<kMostActors> open = enabled & ~made.sleep;
        if (open.none()) return false;
        made.chosen = last_actor != kNobody && open[last_actor] ? last_actor : open._Find_first();
        if (given.is_reduced) made.backtrack.set(made.chosen);
        return true;
    }

    bool sleeps_on(const Actor& sleeper, const Event& event) const {
        if (!overlap(sleeper.pending_at, sleeper.pending.n_bytes, event.at, event.access.n_bytes)) return true;
        if (event.cls == kWrites) return false;
        // What is there is what was there, but for updates that commute, whose like do not ask for it.
        const unsigned cls = class_of(sleeper.pending, peek(sleeper.pending_at, sleeper.pending.n_bytes));
        return !are_dependent(cls, event.cls);
    }

    void take_turn(unsigned number) {
        Actor& actor = actors[number];
        last_actor = number;
        counts.n_steps++;
        if (number >= n_base) {
            perform_late(number);
            return;
        }
        go_on(actor, actor.at);
        Event& event = events.back();
        if (event.access.kind == kPlainStore) event.after = peek(event.at, event.access.n_bytes);
    }

    // Go back to the last step where somebody else is to begin.
    bool next_turns() {
        while (!nodes.empty()) {
            Node& node = nodes.back();
            node.done.set(node.chosen);
            const std::bitset<kMostActors> open = node.backtrack & ~node.done & ~node.sleep;
            if (open.any()) {
                node.chosen = open._Find_first();
                return true;
            }
            nodes.pop_back();
        }
        return false;
    }

    // An execution is over.

    void close(const char* error) {
        counts.n_executions++;
        std::string trace;
        for (unsigned actor = 0; actor < actors.size(); actor++)
            for (const Event& event : events)
                if (event.actor == actor)
                    for (unsigned i = 0; i < actors.size(); i++)
                        if (event.clock.of[i]) {
                            const uint16_t entry[2] = {uint16_t(i), event.clock.of[i]};
                            trace.append(reinterpret_cast<const char*>(entry), sizeof entry);
                        }
        traces.insert(trace);
        std::string key(given.memory, given.watched_bytes);
        key += error;
        const auto found = end_numbers.emplace(key, ends.size());
        if (found.second) {
            ends.emplace_back();
            ends.back().memory.assign(given.memory, given.watched_bytes);
            ends.back().error = error;
            ends.back().is_wrong = given.is_wrong(given.memory, error);
        }
        End& end = ends[found.first->second];
        end.n_executions++;
        if (given.is_reduced && end.is_wrong) shorten(&end);
        else keep_as_it_was(&end);
    }

    void keep_as_it_was(End* end) {
        unsigned n_switches = 0;
        for (size_t i = 1; i < events.size(); i++) n_switches += events[i].actor != events[i - 1].actor;
        if (n_switches >= end->n_switches) return;
        end->n_switches = n_switches;
        end->schedule.clear();
        for (const Event& event : events) end->schedule.push_back(told(event));
    }

    // Find an equivalent order of the steps with the fewest changes of who runs; keep it if it has fewer than before.
    // To run on as far as possible is never worse: it takes away nothing that others wait for.
    void shorten(End* end) {
        std::vector<unsigned> whose;
        std::map<unsigned, std::vector<unsigned>> steps;
        for (unsigned i = 0; i < events.size(); i++) steps[events[i].actor].push_back(i);
        for (const auto& each : steps) whose.push_back(each.first);
        using Places = std::vector<unsigned short>;
        struct State {
            Places places;
            int from;
            unsigned actor;
        };
        const auto run_on = [&](Places& places, unsigned number) {
            const std::vector<unsigned>& mine = steps[whose[number]];
            bool moves = false;
            for (; places[number] < mine.size(); places[number]++, moves = true) {
                const Event& next = events[mine[places[number]]];
                for (unsigned other = 0; other < whose.size(); other++) {
                    const std::vector<unsigned>& theirs = steps[whose[other]];
                    if (other != number && places[other] < theirs.size() && is_before(events[theirs[places[other]]], next))
                        return moves;
                }
            }
            return moves;
        };
        std::vector<State> states{{Places(whose.size()), -1, kNobody}};
        std::set<Places> known;
        size_t layer_end = 1;
        unsigned n_runs = 1;
        for (size_t i = 0; i < states.size(); i++) {
            if (i == layer_end) {
                layer_end = states.size();
                n_runs++;
            }
            if (n_runs - 1 >= end->n_switches) return;
            // Who can run to its end now does: it has a run to come, and none of its steps comes too early.
            unsigned first = 0, last = whose.size();
            for (unsigned number = 0; number < last; number++) {
                Places places = states[i].places;
                if (run_on(places, number) && places[number] == steps[whose[number]].size()) {
                    first = number;
                    last = number + 1;
                }
            }
            for (unsigned number = first; number < last; number++) {
                State next{states[i].places, int(i), number};
                if (!run_on(next.places, number) || !known.insert(next.places).second) continue;
                bool is_over = true;
                for (unsigned each = 0; each < whose.size(); each++)
                    is_over = is_over && next.places[each] == steps[whose[each]].size();
                states.push_back(next);
                if (!is_over) continue;
                end->n_switches = n_runs - 1;
                end->schedule.clear();
                std::vector<unsigned> runs;
                for (int at = states.size() - 1; at > 0; at = states[at].from) runs.push_back(states[at].actor);
                Places places(whose.size());
                for (size_t run = runs.size(); run-- > 0;) {
                    const unsigned short first = places[runs[run]];
                    run_on(places, runs[run]);
                    for (unsigned step = first; step < places[runs[run]]; step++)
                        end->schedule.push_back(told(events[steps[whose[runs[run]]][step]]));
                }
                return;
            }
        }
        if (events.empty()) end->n_switches = 0;
    }

    Step told(const Event& event) const {
        const bool is_late = event.actor >= n_base;
        const Actor& actor = actors[is_late ? (event.actor - n_base) / kLateOfActor : event.actor];
        const bool is_shared = event.at >= given.watched_bytes;
        const size_t at = is_shared ? (event.at - given.watched_bytes) % given.shared_bytes : event.at;
        return {actor.launch,         unsigned(actor.block->index.x), actor.warp->number, event.lane, event.access.kind,
                event.access.n_bytes, is_late,                        is_shared,          at,         event.before,
                event.after,          event.access.site};
    }
};

Explorer* explorer = new Explorer;  // the one that runs, or ran last

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" void explorer_run(const Given* given, Counts* counts) {
    delete explorer;
    explorer = new Explorer;
    explorer->given = *given;
    explorer->explore();
    *counts = explorer->counts;
}

// Returns the steps of a schedule that ends like that; sets what else there is to say.
extern "C" const Step* explorer_end(uint64_t number, const char** memory, const char** error, uint64_t* n_executions,
                                    bool* is_wrong, unsigned* n_switches, uint64_t* n_steps) {
    const End& end = explorer->ends[number];
    *memory = end.memory.data();
    *error = end.error.c_str();
    *n_executions = end.n_executions;
    *is_wrong = end.is_wrong;
    *n_switches = end.n_switches;
    *n_steps = end.schedule.size();
    return end.schedule.data();
}

// Where the module that a place is in was loaded.
extern "C" const void* explorer_base_of(const void* site) {
    Dl_info info;
    return dladdr(site, &info) ? info.dli_fbase : nullptr;
}

// What kernels call.

extern "C" void emulator_fence() { explorer->fence(); }
extern "C" const void* emulator_last_site() { return explorer->last_site; }
extern "C" void emulator_looked_at(const void* site) { explorer->looked_at(site); }

extern "C" uint64_t emulator_update(void* address, unsigned n_bytes, bool is_max, uint64_t value) {
    return explorer->visit({static_cast<char*>(address), n_bytes, is_max ? kMax : kMin, value, 0, __builtin_return_address(0)});
}

extern "C" void emulator_lanes_met(Warp* warp, unsigned mask) {
    if (!explorer->given.lanes_apart) return;  // they are one actor
    std::vector<unsigned> who;
    for (unsigned m = mask; m; m &= m - 1) who.push_back(warp->fiber[__builtin_ctz(m)]->actor);
    explorer->met(who);
}

extern "C" void emulator_block_met(Block* block) {
    std::vector<unsigned> who;
    for (unsigned thread = 0; thread < block->n_threads; thread++) {
        const unsigned actor = block->warps[thread / kLanes].fiber[thread % kLanes]->actor;
        if (who.empty() || who.back() != actor) who.push_back(actor);
    }
    explorer->met(who);
}

extern "C" void __tsan_init() {}
#define VISIT(n_bytes, kind, value, expected)                                                                        \
    explorer->visit({const_cast<char*>(static_cast<const volatile char*>(address)), n_bytes, kind, uint64_t(value), \
                     uint64_t(expected), __builtin_return_address(0)})
#define VISIT_PLAIN(n_bytes, kind) \
    if (explorer->watches(address)) VISIT(n_bytes, kind, 0, 0)
#define PLAIN(n)                                                                                    \
    extern "C" void __tsan_read##n(const void* address) { VISIT_PLAIN(n, kPlainLoad); }             \
    extern "C" void __tsan_write##n(const void* address) { VISIT_PLAIN(n, kPlainStore); }           \
    extern "C" void __tsan_unaligned_read##n(const void* address) { VISIT_PLAIN(n, kPlainLoad); }   \
    extern "C" void __tsan_unaligned_write##n(const void* address) { VISIT_PLAIN(n, kPlainStore); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
extern "C" void __tsan_read_range(const void* address, size_t n_bytes) { VISIT_PLAIN(unsigned(n_bytes), kPlainLoad); }
extern "C" void __tsan_write_range(const void* address, size_t n_bytes) { VISIT_PLAIN(unsigned(n_bytes), kPlainStore); }

#define UPDATE(bits, name, kind)                                                                       \
    extern "C" uint##bits##_t __tsan_atomic##bits##_##name(volatile void* address, uint##bits##_t value, int) { \
        return VISIT(bits / 8, kind, value, 0);                                                        \
    }
#define ATOMIC(bits)                                                                                                 \
    extern "C" uint##bits##_t __tsan_atomic##bits##_load(const volatile void* address, int) {                        \
        return VISIT(bits / 8, kLoad, 0, 0);                                                                         \
    }                                                                                                                \
    extern "C" void __tsan_atomic##bits##_store(volatile void* address, uint##bits##_t value, int) {                 \
        VISIT(bits / 8, kStore, value, 0);                                                                           \
    }                                                                                                                \
    extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile void* address, uint##bits##_t* expected,   \
                                                                 uint##bits##_t desired, int, int) {                 \
        const uint##bits##_t seen = VISIT(bits / 8, kCompare, desired, *expected);                                   \
        const bool is_done = seen == *expected;                                                                      \
        *expected = seen;                                                                                            \
        return is_done;                                                                                              \
    }                                                                                                                \
    UPDATE(bits, exchange, kExchange)                                                                                \
    UPDATE(bits, fetch_add, kAdd)                                                                                    \
    UPDATE(bits, fetch_sub, kSub)                                                                                    \
    UPDATE(bits, fetch_and, kAnd)                                                                                    \
    UPDATE(bits, fetch_or, kOr)                                                                                      \
    UPDATE(bits, fetch_xor, kXor)
ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)
