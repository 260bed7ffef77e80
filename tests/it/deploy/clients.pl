# Perl's own client prints everything that it receives; see clients.py.
use strict;
use warnings;
use HTTP::Tiny;

$| = 1;
my $first;
my $receive = sub {
    my ($chunk, $response) = @_;
    $first //= $response;
    # If a response breaks off between two chunks, the library sends the request again, once.
    if ($first != $response) { print "\n= error: it sends the request again\n"; exit; }
    print $chunk;
};
my $response = HTTP::Tiny->new(timeout => 600)->get($ARGV[0], { data_callback => $receive });
print $response->{success} ? "\n= end\n" : "\n= error $response->{status} $response->{content}\n";
