import java.io.BufferedReader;
import java.io.BufferedOutputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;

/** A map of records that answers on its standard output what its standard input asks; see records.py. */
public final class Records {
    private static final byte[] MARK = "gpuscan-record-".getBytes(StandardCharsets.US_ASCII);

    private final HashMap<Integer, byte[]> records = new HashMap<>();
    private final int nFillers;
    private final long[] factors;

    private Records(int nFillers, long... factors) {
        this.nFillers = nFillers;
        this.factors = factors;
    }

    /** Arguments: records, fillers, both factors. */
    public static void main(String[] words) throws Exception {
        Records held = new Records(Integer.parseInt(words[1]), Long.parseLong(words[2]), Long.parseLong(words[3]));
        // Empty ones are moved to where old objects are before anything is in them: so no page ever has
        // a second copy of a record.
        int nRecords = Integer.parseInt(words[0]);
        for (int number = 0; number < nRecords; number++) {
            held.records.put(number, new byte[MARK.length + 14 + 8 * held.nFillers]);
        }
        System.gc();
        for (int number = 0; number < nRecords; number++) {
            held.write(number, 0);
        }
        OutputStream out = new BufferedOutputStream(System.out, 1 << 17);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] said = line.split(" ");
            switch (said[0]) {
                case "read":
                    for (int i = 1; i < said.length; i++) {
                        out.write(held.records.get(Integer.parseInt(said[i])));
                        out.write('\n');
                    }
                    break;
                case "write":
                    for (int i = 2; i < said.length; i++) {
                        held.write(Integer.parseInt(said[i]), Integer.parseInt(said[1]));
                    }
                    out.write("done\n".getBytes(StandardCharsets.US_ASCII));
                    break;
                case "sum":
                    out.write((held.sum() + "\n").getBytes(StandardCharsets.US_ASCII));
                    break;
                default:
                    throw new IllegalArgumentException(line);
            }
            out.flush();
        }
    }

    private void write(int number, int version) {
        byte[] record = records.get(number);
        System.arraycopy(MARK, 0, record, 0, MARK.length);
        int at = digits(record, MARK.length, number, 6);
        record[at++] = '-';
        at = digits(record, at, version, 6);
        record[at++] = '-';
        long filler = (number * factors[0] + version * factors[1]) % 100_000_000L;
        for (int i = 0; i < nFillers; i++) {
            at = digits(record, at, filler, 8);
        }
    }

    private static int digits(byte[] record, int at, long value, int n) {
        for (int i = n - 1; i >= 0; i--) {
            record[at + i] = (byte) ('0' + value % 10);
            value /= 10;
        }
        return at + n;
    }

    private long sum() {
        long found = 0;
        for (byte[] record : records.values()) {
            for (byte each : record) {
                found += each;
            }
        }
        return found;
    }
}
